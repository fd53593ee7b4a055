/* loader_elf.c: loads ELF kernels by their program headers and finds Xen's PVH note (ELF-64, XEN
 * elfnote.h). */
#include "machine/loader_internal.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#define NOTE_MAX	65536 /* bytes of one PT_NOTE segment that are looked at */
#define NOTE_XEN_GUEST	6     /* XEN_ELFNOTE_GUEST_OS */
#define NOTE_XEN_PHYS32 18    /* XEN_ELFNOTE_PHYS32_ENTRY */
#define ELF_MAX_PHDRS	512

_Bool elf_magic(const uint8_t *head, size_t len)
{
	return len >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG);
}

static int elf_refuse(const struct image *image, const char *why, struct error *err)
{
	return error_set(err, -EINVAL, "'%s' is not a kernel this machine can start: %s",
			 image->name, why);
}

struct phdr {
	uint32_t type;
	struct elf_seg seg;
};

static int phdr_read(const struct image *image, _Bool is64, uint64_t at, struct phdr *out,
		     struct error *err)
{
	int rc;

	if (is64) {
		Elf64_Phdr p;
		rc = image_read(image, at, &p, sizeof(p), err);
		if (!rc)
			*out = (struct phdr){
			    p.p_type, {p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz}};
	} else {
		Elf32_Phdr p;
		rc = image_read(image, at, &p, sizeof(p), err);
		if (!rc)
			*out = (struct phdr){
			    p.p_type, {p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz}};
	}
	return rc;
}

static int seg_add(const struct image *image, struct elf_image *elf, const struct elf_seg *seg,
		   struct error *err)
{
	if (!seg->memsz)
		return 0;
	if (seg->filesz > seg->memsz)
		return elf_refuse(image, "a segment is larger in the file than in memory", err);
	if (!range_fits(seg->offset, seg->filesz, image->size))
		return error_set(err, -EINVAL, "'%s' is truncated: a segment reaches past its end",
				 image->name);
	if (!range_fits(seg->paddr, seg->memsz, UINT64_MAX))
		return elf_refuse(image, "a segment's address wraps around", err);
	if (elf->seg_count == ELF_MAX_SEGS)
		return elf_refuse(image, "it has more than 32 loadable segments", err);
	elf->seg[elf->seg_count++] = *seg;
	elf->low = MIN(elf->low, seg->paddr);
	elf->high = MAX(elf->high, seg->paddr + seg->memsz);
	return 0;
}

/* A PT_NOTE segment: name "Xen" with the types above. Damaged notes are skipped, not fatal. */
static int notes_read(const struct image *image, struct elf_image *elf, const struct elf_seg *seg,
		      struct error *err)
{
	uint8_t buf[4096];
	uint64_t end = MIN(seg->filesz, (uint64_t)NOTE_MAX);

	if (!range_fits(seg->offset, end, image->size))
		return error_set(err, -EINVAL, "'%s' is truncated: a note reaches past its end",
				 image->name);
	for (uint64_t pos = 0; end - pos >= sizeof(Elf64_Nhdr);) {
		Elf64_Nhdr note;
		int rc = image_read(image, seg->offset + pos, &note, sizeof(note), err);
		if (rc)
			return rc;
		uint64_t name = pos + sizeof(note);
		uint64_t desc = name + ALIGN_UP((uint64_t)note.n_namesz, 4);
		uint64_t next = desc + ALIGN_UP((uint64_t)note.n_descsz, 4);
		if (next > end)
			return 0;
		pos = next;
		if (note.n_namesz != 4 || note.n_descsz > sizeof(buf) - 4)
			continue;
		rc = image_read(image, seg->offset + name, buf, 4 + note.n_descsz, err);
		if (rc)
			return rc;
		if (memcmp(buf, "Xen", 4))
			continue;
		uint64_t value = 0;
		memcpy(&value, buf + 4, MIN((size_t)note.n_descsz, sizeof(value)));
		if (note.n_type == NOTE_XEN_PHYS32 && (note.n_descsz == 4 || note.n_descsz == 8))
			elf->pvh_entry = value;
		if (note.n_type == NOTE_XEN_GUEST)
			elf->is_linux = note.n_descsz >= 5 && !memcmp(buf + 4, "linux", 5);
	}
	return 0;
}

static int header_read(const struct image *image, struct elf_image *elf, uint64_t *phoff,
		       unsigned *phnum, struct error *err)
{
	uint8_t ident[EI_NIDENT];
	int rc = image_read(image, 0, ident, sizeof(ident), err);
	if (rc)
		return rc;
	if (!elf_magic(ident, sizeof(ident)))
		return elf_refuse(image, "it is not an ELF file", err);
	if (ident[EI_DATA] != ELFDATA2LSB ||
	    (ident[EI_CLASS] != ELFCLASS64 && ident[EI_CLASS] != ELFCLASS32))
		return elf_refuse(image, "it is an ELF file for a machine that is not x86", err);

	unsigned type, phentsize;
	elf->is64 = ident[EI_CLASS] == ELFCLASS64;
	if (elf->is64) {
		Elf64_Ehdr e;
		rc = image_read(image, 0, &e, sizeof(e), err);
		if (rc)
			return rc;
		type = e.e_type, elf->machine = e.e_machine, elf->entry = e.e_entry;
		*phoff = e.e_phoff, *phnum = e.e_phnum, phentsize = e.e_phentsize;
	} else {
		Elf32_Ehdr e;
		rc = image_read(image, 0, &e, sizeof(e), err);
		if (rc)
			return rc;
		type = e.e_type, elf->machine = e.e_machine, elf->entry = e.e_entry;
		*phoff = e.e_phoff, *phnum = e.e_phnum, phentsize = e.e_phentsize;
	}
	if (elf->machine != (elf->is64 ? EM_X86_64 : EM_386) &&
	    !(elf->machine == EM_X86_64 && !elf->is64))
		return elf_refuse(image, "it is an ELF file for a machine that is not x86", err);
	if (type != ET_EXEC && type != ET_DYN)
		return elf_refuse(image, "it is an ELF object or core file, not a linked program",
				  err);
	if (*phnum == 0 || *phnum > ELF_MAX_PHDRS ||
	    phentsize != (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return elf_refuse(image, "its program headers make no sense", err);
	return 0;
}

/* Linux's vmlinux has a physical entry; others have a virtual one inside a segment. */
static void entry_to_physical(struct elf_image *elf)
{
	for (unsigned i = 0; i < elf->seg_count; i++)
		if (elf->entry >= elf->seg[i].paddr &&
		    elf->entry - elf->seg[i].paddr < elf->seg[i].memsz)
			return;
	for (unsigned i = 0; i < elf->seg_count; i++)
		if (elf->entry >= elf->seg[i].vaddr &&
		    elf->entry - elf->seg[i].vaddr < elf->seg[i].memsz) {
			elf->entry = elf->entry - elf->seg[i].vaddr + elf->seg[i].paddr;
			return;
		}
}

int elf_parse(const struct image *image, struct elf_image *elf, struct error *err)
{
	uint64_t phoff = 0;
	unsigned phnum = 0;

	*elf = (struct elf_image){.low = UINT64_MAX};
	int rc = header_read(image, elf, &phoff, &phnum, err);
	if (rc)
		return rc;

	size_t phentsize = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	if (!range_fits(phoff, phnum * phentsize, image->size))
		return error_set(err, -EINVAL, "'%s' is truncated: its program headers are missing",
				 image->name);
	for (unsigned i = 0; i < phnum; i++) {
		struct phdr ph;
		rc = phdr_read(image, elf->is64, phoff + i * phentsize, &ph, err);
		if (!rc && ph.type == PT_LOAD)
			rc = seg_add(image, elf, &ph.seg, err);
		if (!rc && ph.type == PT_NOTE)
			rc = notes_read(image, elf, &ph.seg, err);
		if (rc)
			return rc;
	}
	if (!elf->seg_count)
		return elf_refuse(image, "it has nothing to load", err);
	entry_to_physical(elf);
	return 0;
}

int elf_load(struct boot_run *run, const struct image *image, const struct elf_image *elf,
	     struct error *err)
{
	for (unsigned i = 0; i < elf->seg_count; i++) {
		const struct elf_seg *s = &elf->seg[i];
		if (!place_is_ram(&run->place, s->paddr, s->memsz))
			return error_set(err, -ENOMEM,
					 "'%s' has to be at 0x%llx to 0x%llx, and this VM has %llu "
					 "MiB of RAM: give it more with -m",
					 image->name, (unsigned long long)s->paddr,
					 (unsigned long long)(s->paddr + s->memsz),
					 (unsigned long long)(run->layout->ram_bytes >> 20));
		if (s->paddr < BOARD_SMBIOS_END && s->paddr + s->memsz > BOARD_EBDA)
			return error_set(err, -EINVAL,
					 "'%s' has to be between 640 KiB and 1 MiB, where the "
					 "firmware's tables are",
					 image->name);
	}
	for (unsigned i = 0; i < elf->seg_count; i++) {
		const struct elf_seg *s = &elf->seg[i];
		int rc = image_load(image, s->offset, s->filesz, run->mem, s->paddr, err);
		if (!rc && s->memsz > s->filesz)
			rc = gmem_fill(run->mem, gpa(s->paddr + s->filesz), 0,
				       (size_t)(s->memsz - s->filesz));
		if (!rc)
			rc = place_take(&run->place, s->paddr, s->memsz);
		if (rc)
			return rc == -EFAULT ? error_set(err, -ENOMEM, "no RAM for '%s' at 0x%llx",
							 image->name, (unsigned long long)s->paddr)
					     : rc;
	}
	return 0;
}
