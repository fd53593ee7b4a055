"""material.py: the C project and the SQL that bench/real.py has built and run; the same every time."""
import os

from compute import Random

MIX = "x = (x ^ (x >> {a})) * {c}u + {d};"


class Material(Random):
    """Pieces of text with numbers in them."""

    def fill(self, text, n):
        for key, value in (("{n}", n), ("{a}", 3 + self.next(25)), ("{c}", 2 * self.next(1 << 30) + 1), ("{d}", self.next(1 << 30)),
                           ("{k}", 5 + self.next(60)), ("{s}", 16 << self.next(3))):
            text = text.replace(key, str(value))
        return text


# What the project's functions are like; each takes a number and returns one.
FUNCTIONS = ("""
struct entry_{n} {
	struct entry_{n} *next;
	uint32_t key, count;
	char name[{s}];
};

static uint64_t hash_{n}(uint64_t seed)
{
	struct entry_{n} *table[{s}] = { 0 };
	uint64_t sum = 0;
	uint32_t x = (uint32_t)seed | 1;

	for (int i = 0; i < {k}; i++) {
		x = (x ^ (x >> {a})) * {c}u + {d};
		struct entry_{n} **slot = &table[x % {s}], *e = *slot;
		while (e && e->key != x % 97)
			e = e->next;
		if (!e) {
			e = calloc(1, sizeof(*e));
			if (!e)
				abort();
			e->key = x % 97;
			snprintf(e->name, sizeof(e->name), "e%u", e->key);
			e->next = *slot;
			*slot = e;
		}
		e->count++;
	}
	for (int i = 0; i < {s}; i++) {
		while (table[i]) {
			struct entry_{n} *e = table[i];
			table[i] = e->next;
			sum = sum * 31 + e->count * strlen(e->name) + (unsigned char)e->name[1];
			free(e);
		}
	}
	return sum;
}
""", """
static int by_value_{n}(const void *a, const void *b)
{
	const int64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint64_t sort_{n}(uint64_t seed)
{
	int64_t values[{k}];
	uint64_t sum = {d};

	for (int i = 0; i < {k}; i++)
		values[i] = (int64_t)(seed = seed * {c}u + {d}) >> {a};
	qsort(values, {k}, sizeof(values[0]), by_value_{n});
	for (int i = 1; i < {k}; i++)
		sum = (sum << 1 | sum >> 63) ^ (uint64_t)(values[i] - values[i - 1]);
	return sum;
}
""", """
static uint64_t matrix_{n}(uint64_t seed)
{
	double a[12][12], b[12][12], c[12][12];
	double trace = 0;

	for (int i = 0; i < 12; i++) {
		for (int j = 0; j < 12; j++) {
			a[i][j] = (double)((seed >> (i + j)) % {k}) - 2.5;
			b[i][j] = i == j ? 1.25 : (double)((i * {a} + j) % 7);
		}
	}
	for (int i = 0; i < 12; i++) {
		for (int j = 0; j < 12; j++) {
			double s = 0;
			for (int k = 0; k < 12; k++)
				s += a[i][k] * b[k][j];
			c[i][j] = s;
		}
	}
	for (int i = 0; i < 12; i++)
		trace += c[i][i] * (i + 1);
	return (uint64_t)(int64_t)(trace * 4) ^ {c}u;
}
""", """
enum token_{n} { END_{n}, NUMBER_{n}, WORD_{n}, SIGN_{n}, OTHER_{n} };

static enum token_{n} next_{n}(const char **at, uint64_t *value)
{
	const char *p = *at;
	enum token_{n} kind;

	while (*p == ' ')
		p++;
	if (!*p) {
		kind = END_{n};
	} else if (isdigit((unsigned char)*p)) {
		for (*value = 0; isdigit((unsigned char)*p); p++)
			*value = *value * 10 + (uint64_t)(*p - '0');
		kind = NUMBER_{n};
	} else if (isalpha((unsigned char)*p)) {
		for (*value = {d}; isalnum((unsigned char)*p); p++)
			*value = (*value ^ (unsigned char)*p) * {c}u;
		kind = WORD_{n};
	} else {
		kind = strchr("+-*/", *p) ? SIGN_{n} : OTHER_{n};
		*value = (unsigned char)*p++;
	}
	*at = p;
	return kind;
}

static uint64_t parse_{n}(uint64_t seed)
{
	char text[128];
	uint64_t value = 0, sum = seed;
	const char *at = text;

	snprintf(text, sizeof(text), "let x%u = %u * (alpha + {k}) - beta%u / {a};", (unsigned)(seed % 10), (unsigned)(seed % 1000), (unsigned)(seed >> 60));
	for (;;) {
		switch (next_{n}(&at, &value)) {
		case END_{n}:
			return sum;
		case NUMBER_{n}:
			sum += value * {k};
			break;
		case WORD_{n}:
			sum ^= value;
			break;
		case SIGN_{n}:
			sum = sum << 5 | sum >> 59;
			break;
		case OTHER_{n}:
			sum += value;
			break;
		}
	}
}
""", """
static uint64_t machine_{n}(uint64_t seed)
{
	unsigned char code[{s}];
	uint64_t stack[8] = { 0 }, top = 0;

	for (unsigned i = 0; i < {s}; i++)
		code[i] = (unsigned char)((seed = seed * {c}u + {d}) >> {a});
	for (unsigned i = 0, steps = 0; i < {s} && steps < {k} * 4; i++, steps++) {
		switch (code[i] & 15) {
		case 0: stack[++top & 7] = code[i]; break;
		case 1: stack[top & 7] += stack[(top - 1) & 7]; break;
		case 2: stack[top & 7] ^= stack[(top - 1) & 7] << 3; break;
		case 3: stack[top & 7] *= {c}u; break;
		case 4: top--; break;
		case 5: stack[(top + 1) & 7] = stack[top & 7]; top++; break;
		case 6: if (stack[top & 7] & 1) i += code[i] >> 6; break;
		case 7: stack[top & 7] = ~stack[top & 7]; break;
		case 8: stack[top & 7] >>= code[i] >> 4; break;
		case 9: stack[top & 7] = (uint64_t)__builtin_popcountll(stack[top & 7]); break;
		case 10: stack[0] += top; break;
		case 11: stack[top & 7] -= {k}; break;
		default: stack[i & 7] ^= seed; break;
		}
	}
	for (int i = 1; i < 8; i++)
		stack[0] = stack[0] * 33 + stack[i];
	return stack[0];
}
""")
NAMES = ("hash", "sort", "matrix", "parse", "machine")


def write_project(directory, units, functions):
    """A Makefile, UNITS files of FUNCTIONS functions each, a header and a main program that calls them all."""
    os.makedirs(directory)
    r = Material(20)

    def write(name, text):
        with open(f"{directory}/{name}", "w") as f:
            f.write(text)

    write("project.h", '#pragma once\n#include <stdint.h>\n\n' + "".join(f"uint64_t unit_{u}(uint64_t seed);\n" for u in range(units)))
    for u in range(units):
        text = "#include <ctype.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include \"project.h\"\n"
        calls = []
        for n in range(functions):
            which = (n + r.next(2)) % len(FUNCTIONS)
            text += r.fill(FUNCTIONS[which], n)
            calls.append(f"\tseed = seed * 3 + {NAMES[which]}_{n}(seed);\n")
        write(f"unit_{u}.c", f"{text}\nuint64_t unit_{u}(uint64_t seed)\n{{\n{''.join(calls)}\treturn seed;\n}}\n")
    write("main.c", '#include <inttypes.h>\n#include <stdio.h>\n#include "project.h"\n\nint main(void)\n{\n\tuint64_t seed = 1;\n\n'
          "\tfor (int i = 0; i < 20; i++) {\n" + "".join(f"\t\tseed = unit_{u}(seed);\n" for u in range(units)) +
          '\t}\n\tprintf("%016" PRIx64 "\\n", seed);\n\treturn 0;\n}\n')
    write("Makefile", "CFLAGS = -O2 -Wall\nOBJECTS = main.o " + " ".join(f"unit_{u}.o" for u in range(units)) +
          "\n\nproject: $(OBJECTS)\n\t$(CC) -o $@ $(OBJECTS)\n$(OBJECTS): project.h\n")


def write_sql(path, rows):
    """Rows from a series and one by one, indexes, joins, aggregates, text, updates and deletes; a few commits that reach the disk."""
    r = Material(3)
    with open(path, "w") as f:
        f.write("CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, price INTEGER, name TEXT);\n"
                "CREATE TABLE sale(item INTEGER, day INTEGER, amount INTEGER, note TEXT);\nBEGIN;\n"
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO item SELECT i, "
                "i * 7919 % 101, i * 104729 % 9973, printf('item %d of %x', i * 31 % 65537, i * 2654435761 % 4294967296) FROM n;\nCOMMIT;\nBEGIN;\n")
        for i in range(rows // 3):
            f.write(f"INSERT INTO sale VALUES({1 + r.next(rows)},{r.next(365)},{1 + r.next(50)},'note {r.next(1 << 20):x}');\n")
        f.write("COMMIT;\nCREATE INDEX item_kind ON item(kind, price);\nCREATE INDEX item_name ON item(name);\nCREATE INDEX sale_item ON sale(item);\n"
                "CREATE INDEX sale_day ON sale(day);\nANALYZE;\n")
        for i in range(8):
            f.write(f"SELECT kind, count(*), sum(price), min(name), max(name) FROM item WHERE price > {r.next(5000)} GROUP BY kind ORDER BY kind;\n"
                    f"SELECT day, sum(amount * price) FROM sale JOIN item ON item.id = sale.item WHERE day BETWEEN {r.next(180)} AND {180 + r.next(180)} "
                    "GROUP BY day ORDER BY 2 DESC LIMIT 20;\n"
                    f"SELECT count(*), sum(length(name)) FROM item WHERE name LIKE '%{r.next(256):x}%';\n"
                    f"SELECT name, (SELECT count(*) FROM sale WHERE item = item.id) FROM item WHERE kind = {r.next(101)} ORDER BY price, id LIMIT 40;\n")
        for i in range(40):
            f.write(f"UPDATE item SET price = price + {i} WHERE id % {rows // 50} = {i};\nDELETE FROM sale WHERE day = {r.next(365)} AND amount < {r.next(20)};\n")
        f.write("SELECT count(*), sum(price), sum(kind * price) FROM item;\nSELECT count(*), sum(amount), min(note), max(note) FROM sale;\nPRAGMA integrity_check;\n")
