#!/usr/bin/env python3
"""real.py: everyday work in the Debian guest, beside the same work natively and in QEMU's TCG, in alternate rounds of one run.

usage: real.py POLYVISOR IMAGE_DIR [--scale N] [--rounds N] [--only ITEM,...] [--engines LIST] [--cpus N] [--logs DIR] [--json FILE]

IMAGE_DIR holds what `make image-packages` makes. ITEMS: apt (apt-get update and install of packages from a repository of files),
make (a C project of 30 files), python, sqlite; and, when asked for, user (programs that compute, of which the user time counts that
they were given, by the guest's kernel or the host's). ENGINES: native,qemu,direct=auto,direct=off (default), direct=on, interp. Each run has a
fresh copy of the disk, each guest the same kernel, command line, memory and CPUs; native is a change of root into the image's own files.
Seconds are the host's, between an item's lines on the console; the best round counts. What the items compute is compared: a difference
fails. --scale 0.1 makes the work smaller (apt-get's stays). --logs keeps consoles, with Polyvisor's counters.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(__file__))
from cpu import QEMU, keep_priority, mean, native_start, verdict  # noqa: E402
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "real"))
from material import write_project, write_sql  # noqa: E402

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "real")
USUAL = ("apt", "make", "python", "sqlite")
ITEMS = (*USUAL, "user")
ENGINES = ("native", "qemu", "direct=auto", "direct=off", "direct=on", "interp")
ROOT_OFFSET = 4096 * 512
TIMES_QEMU = 3.0
USER_PART, USER_MEAN = 0.95, 0.97
# As root in the image's files: an ordinary user is root in a namespace of its own.
NATIVE = ('mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && mount --bind "$2" "$1/mnt" && shift 2 && '
          'cd "$0" && exec chroot . /bin/sh /mnt/work.sh "$@"')


def write_data(args, tmp):
    """The directory with what there is to do, and a disk of it, which every engine only reads."""
    data = f"{tmp}/data"
    shutil.copytree(f"{args.images}/debian.debs", f"{data}/debs")
    for name in ("work.sh", "compute.py", "user.py"):
        shutil.copy(f"{HERE}/{name}", data)
    write_project(f"{data}/project", max(2, round(30 * args.scale)), 18)
    write_sql(f"{data}/work.sql", max(2000, round(300000 * args.scale)))
    with open(f"{data}/python-rounds", "w") as f:
        f.write(str(max(1, round(60 * args.scale))))
    with open(f"{data}/scale", "w") as f:
        f.write(str(args.scale))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "real", "-d", data, f"{tmp}/data.img", "128M"], check=True, stdout=subprocess.DEVNULL)
    return data


def guest_command(engine, args, disk, data):
    with open(f"{args.images}/debian.cmdline") as f:
        append = f.read().strip()
    append += f" quiet systemd.unit=real.service systemd.show_status=0 \"systemd.setenv=WORK={args.cpus} {' '.join(args.items)}\""
    common = ["kernel", f"{args.images}/debian.vmlinuz", "initrd", f"{args.images}/debian.initrd", "append", append]
    if engine == "qemu":
        drives = [w for i, (file, more) in enumerate(((disk, ""), (data, ",readonly=on"))) for w in (
            "-drive", f"file={file},if=none,id=d{i},format=raw,cache=writeback,aio=io_uring{more}",
            "-device", f"virtio-blk-pci,drive=d{i},num-queues={args.cpus}")]
        return [QEMU, "-nographic", "-no-reboot", "-nic", "none", "-m", str(args.memory), "-M", "q35", "-cpu", "max", "-smp", str(args.cpus),
                "-accel", "tcg,thread=multi,tb-size=512", *drives, *[f"-{w}" if not i % 2 else w for i, w in enumerate(common)]]
    # Counting instructions costs three for each block.
    stats = ["--stats"] if args.logs else []
    return [args.polyvisor, "run", "--quiet", *stats, "--engine", "soft", "--soft", engine, "--no-reboot", "--net", "none",
            "-m", str(args.memory), "--cpus", str(args.cpus), "--disk", f"{disk},queues={args.cpus}", "--disk", f"{data},ro,queues={args.cpus}",
            *[f"--{w}" if not i % 2 else w for i, w in enumerate(common)]]


def prepare(engine, args, tmp):
    """A fresh disk, or the files that are on it; the command that works on it."""
    if engine != "native":
        disk = f"{tmp}/disk"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", f"{args.images}/debian.img", disk], check=True)
        unit = f"write {HERE}/real.service /etc/systemd/system/real.service"
        subprocess.run(["debugfs", "-w", "-R", unit, f"{disk}?offset={ROOT_OFFSET}"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return disk, guest_command(engine, args, disk, f"{tmp}/data.img"), keep_priority
    root = f"{tmp}/root"
    os.mkdir(root)
    subprocess.run(["debugfs", "-R", f"rdump / {root}", f"{args.images}/debian.img?offset={ROOT_OFFSET}"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    turn = args.turn % os.cpu_count()
    args.turn += 1
    chosen = {(turn + i) % os.cpu_count() for i in range(args.cpus)}
    return root, ["unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", NATIVE, root, root, f"{tmp}/data", str(args.cpus),
                  *args.items], lambda: native_start(chosen)


def read_console(args, p, log, seconds, results, user, text):
    """Takes seconds and results from the lines as they come; whether the work came to its end."""
    begun, done, start = {}, False, time.monotonic()
    for raw in p.stdout:
        now, line = time.monotonic(), raw.decode(errors="replace").rstrip()
        text.append(f"{now - start:9.3f} {line}")
        print(text[-1], file=log, flush=True)
        at = line.find("real ")  # the kernel may have begun the line
        word = line[at:].split() if at >= 0 else []
        if word[:3] == ["real", "all", "done"]:
            done = True
        elif len(word) >= 3 and word[1] in args.items:
            if word[2] == "begin":
                begun[word[1]] = now
            elif word[2] == "end":
                seconds[word[1]] = now - begun[word[1]]
            elif word[2] == "result" and word[4:5] == ["seconds"]:
                user[word[3]] = float(word[5])
            elif word[2] == "result":
                results.setdefault(word[1], []).append(" ".join(word[3:]))
    return done


def run(engine, args, tmp, log):
    """Seconds and results of each item, and what `user` says of its programs."""
    place, command, first = prepare(engine, args, tmp)
    os.sync()  # what the copy left to write is not this run's work
    seconds, results, user, text = {}, {}, {}, []
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=first)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(p.pid, signal.SIGKILL))
    signal.alarm(args.patience)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("real.py: ended by SIGTERM"))
    try:
        done = read_console(args, p, log, seconds, results, user, text)
        p.wait()
    finally:  # a session of its own would outlive this one
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()
    signal.alarm(0)
    shutil.rmtree(place) if os.path.isdir(place) else os.unlink(place)
    if not done or set(seconds) != set(args.items) or set(results) != set(args.items):
        sys.exit(f"real.py: {engine} did not come to its end:\n" + "\n".join(text)[-4000:])
    return seconds, results, user


def show_user(best, engines):
    """User time natively as a part of that in each guest."""
    programs = list(best[engines[0]])
    if "native" not in engines or not programs:
        return
    guests = [e for e in engines if e != "native"]
    print(f"\n{'user time':<20}{'native s':>12}" + "".join(f"{e + '/native':>21}" for e in guests))
    for p in programs:
        print(f"{p:<20}{best['native'][p]:>12.5g}" + "".join(f"{best['native'][p] / best[e][p]:>21.3f}" for e in guests))
    for e in guests:
        parts = {p: best["native"][p] / best[e][p] for p in programs}
        least = min(parts, key=parts.get)
        print(f"{e}: {mean(parts.values()):.3f} of native in the geometric mean{verdict(mean(parts.values()), USER_MEAN if e == 'direct=auto' else None)}"
              f", least {parts[least]:.3f} ({least}){verdict(parts[least], USER_PART if e == 'direct=auto' else None)}")


def show(best, engines, items):
    """The table; false where a bar that could be looked at was missed."""
    times = lambda e, other, i: best[other][i] / best[e][i]  # noqa: E731
    ours = [e for e in engines if e not in ("native", "qemu")]
    columns = [f"{e} s" for e in engines]
    columns += [f"{e}: x qemu" for e in ours if "qemu" in engines]
    columns += [f"{e}/native" for e in engines if e != "native" and "native" in engines]
    print(f"{'':<10}" + "".join(f"{c:>21}" for c in columns))
    for i in items:
        cells = [f"{best[e][i]:.2f}" for e in engines]
        cells += [f"{times(e, 'qemu', i):.2f}" for e in ours if "qemu" in engines]
        cells += [f"{times(e, 'native', i):.3f}" for e in engines if e != "native" and "native" in engines]
        print(f"{i:<10}" + "".join(f"{c:>21}" for c in cells))
    if "qemu" in engines:
        for e in ours:
            ratios = {i: times(e, "qemu", i) for i in items}
            least = min(ratios, key=ratios.get)
            print(f"{e}: {mean(ratios.values()):.2f} times qemu in the geometric mean, least {ratios[least]:.2f} ({least})"
                  f"{verdict(ratios[least], TIMES_QEMU if e == 'direct=auto' else None)}")


def parse():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("polyvisor")
    p.add_argument("images")
    p.add_argument("--scale", type=float, default=1.0)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--only", default=",".join(USUAL))
    p.add_argument("--engines", default="native,qemu,direct=auto,direct=off")
    p.add_argument("--cpus", type=int, default=1)
    p.add_argument("--memory", type=int, default=1024, help="MiB")
    p.add_argument("--patience", type=int, default=1800, help="seconds until a run is given up")
    p.add_argument("--logs")
    p.add_argument("--json")
    args = p.parse_args()
    args.items, args.chosen, args.turn = args.only.split(","), args.engines.split(","), 0
    for word, known in [(i, ITEMS) for i in args.items] + [(e, ENGINES) for e in args.chosen]:
        if word not in known:
            sys.exit(f"real.py: '{word}' is not one of: {', '.join(known)}")
    return args


def main():
    args = parse()
    engines = args.chosen
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if not os.path.exists(f"{args.images}/debian.img") or not os.path.exists(f"{args.images}/debian.debs/Packages"):
        print(f"no {args.images}/debian.img and debian.debs: 'make image-packages' makes them")
        return 77
    if "qemu" in engines and not shutil.which(QEMU):
        print("qemu: not installed (qemu-system-x86)")
        engines.remove("qemu")
    if "native" in engines and subprocess.run(["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount", "--pid", "--fork", "true"],
                                              stderr=subprocess.DEVNULL).returncode:
        print("native: this host lets nobody make namespaces")
        engines.remove("native")
    best, user, wanted, wrong, start = {e: {} for e in engines}, {e: {} for e in engines}, {}, 0, time.monotonic()
    if args.logs:
        os.makedirs(args.logs, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.images) as tmp:
        write_data(args, tmp)
        for n in range(args.rounds):
            for e in engines:
                with open(f"{args.logs}/{e}-{n}.log" if args.logs else os.devnull, "w") as log:
                    seconds, results, programs = run(e, args, tmp, log)
                for name, s in programs.items():
                    user[e][name] = min(user[e].get(name, s), s)
                for i in args.items:
                    best[e][i] = min(best[e].get(i, seconds[i]), seconds[i])
                    first, result = wanted.setdefault(i, (e, results[i]))
                    if result != results[i]:
                        wrong += 1
                        print(f"WRONG: {i} in {e}:\n  " + "\n  ".join(results[i]) + f"\nin {first}:\n  " + "\n  ".join(result))
    timed = [i for i in args.items if i != "user"]  # some of its programs take a time that is given
    if timed:
        show(best, engines, timed)
    show_user(user, engines)
    print(f"{args.rounds} round(s) at scale {args.scale:g}, {args.cpus} CPU(s), {time.monotonic() - start:.0f} s in all; "
          + ("WRONG results, see above" if wrong else "the same results everywhere"))
    if args.json:
        with open(args.json, "w") as f:
            json.dump(best, f, indent=1)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
