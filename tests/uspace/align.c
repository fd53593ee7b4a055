/* align.c: a probe of alignment checks: to what size each kind of access has to be aligned where a
 * program asks for such checks (AC), which differs from vendor to vendor for much that is not a
 * plain load or store. */
#define _GNU_SOURCE
#include "uspace.h"
#include <stdio.h>
#include <string.h>

/* Name and instruction; RDI: what is accessed, RSI: other memory. X: of every CPU that guests run
 * on; V: AVX2, FMA, F16C, BMI2. */
#define ROWS(X, V)                                                                                 \
	X(ld16, "mov (%rdi),%ax")                                                                  \
	X(ld32, "mov (%rdi),%eax")                                                                 \
	X(ld64, "mov (%rdi),%rax")                                                                 \
	X(st16, "mov %ax,(%rdi)")                                                                  \
	X(st32, "mov %eax,(%rdi)")                                                                 \
	X(st64, "mov %rax,(%rdi)")                                                                 \
	X(movzx16, "movzwl (%rdi),%eax")                                                           \
	X(add64, "add (%rdi),%rax")                                                                \
	X(rmw64, "add %rax,(%rdi)")                                                                \
	X(lock64, "lock add %rax,(%rdi)")                                                          \
	X(xchg32, "xchg %eax,(%rdi)")                                                              \
	X(cmpxchg8b, "cmpxchg8b (%rdi)")                                                           \
	X(cmpxchg16b, "cmpxchg16b (%rdi)")                                                         \
	X(movbe64, "movbe (%rdi),%rax")                                                            \
	X(movnti64, "movnti %rax,(%rdi)")                                                          \
	X(popcnt64, "popcnt (%rdi),%rax")                                                          \
	X(crc32q, "crc32q (%rdi),%rax")                                                            \
	X(bt32, "xor %ecx,%ecx\nbt %ecx,(%rdi)")                                                   \
	X(bt64, "xor %ecx,%ecx\nbt %rcx,(%rdi)")                                                   \
	X(bts32, "xor %ecx,%ecx\nbts %ecx,(%rdi)")                                                 \
	X(btimm64, "btq $3,(%rdi)")                                                                \
	X(movd, "movd (%rdi),%xmm0")                                                               \
	X(movq, "movq (%rdi),%xmm0")                                                               \
	X(movq_st, "movq %xmm0,(%rdi)")                                                            \
	X(movq_mm, "movq (%rdi),%mm0")                                                             \
	X(paddb_mm, "paddb (%rdi),%mm0")                                                           \
	X(movss, "movss (%rdi),%xmm0")                                                             \
	X(movsd, "movsd (%rdi),%xmm0")                                                             \
	X(movsd_st, "movsd %xmm0,(%rdi)")                                                          \
	X(addss, "addss (%rdi),%xmm0")                                                             \
	X(addsd, "addsd (%rdi),%xmm0")                                                             \
	X(movlps, "movlps (%rdi),%xmm0")                                                           \
	X(movhps, "movhps (%rdi),%xmm0")                                                           \
	X(movddup, "movddup (%rdi),%xmm0")                                                         \
	X(cvtsi2sd64, "cvtsi2sdq (%rdi),%xmm0")                                                    \
	X(cvtps2pd, "cvtps2pd (%rdi),%xmm0")                                                       \
	X(pinsrw, "pinsrw $0,(%rdi),%xmm0")                                                        \
	X(pinsrq, "pinsrq $0,(%rdi),%xmm0")                                                        \
	X(pextrw, "pextrw $0,%xmm0,(%rdi)")                                                        \
	X(pextrq, "pextrq $0,%xmm0,(%rdi)")                                                        \
	X(insertps, "insertps $0,(%rdi),%xmm0")                                                    \
	X(pmovzxbw, "pmovzxbw (%rdi),%xmm0")                                                       \
	X(pmovzxbd, "pmovzxbd (%rdi),%xmm0")                                                       \
	X(pmovzxbq, "pmovzxbq (%rdi),%xmm0")                                                       \
	X(movups, "movups (%rdi),%xmm0")                                                           \
	X(movups_st, "movups %xmm0,(%rdi)")                                                        \
	X(movupd, "movupd (%rdi),%xmm0")                                                           \
	X(movdqu, "movdqu (%rdi),%xmm0")                                                           \
	X(movdqu_st, "movdqu %xmm0,(%rdi)")                                                        \
	X(lddqu, "lddqu (%rdi),%xmm0")                                                             \
	X(movaps, "movaps (%rdi),%xmm0")                                                           \
	X(movntps, "movntps %xmm0,(%rdi)")                                                         \
	X(addps, "addps (%rdi),%xmm0")                                                             \
	X(maskmovdqu, "maskmovdqu %xmm0,%xmm1")                                                    \
	X(maskmovq, "maskmovq %mm0,%mm1")                                                          \
	X(fld32, "flds (%rdi)\nffree %st")                                                         \
	X(fld64, "fldl (%rdi)\nffree %st")                                                         \
	X(fld80, "fldt (%rdi)\nffree %st")                                                         \
	X(fst32, "fldz\nfstps (%rdi)")                                                             \
	X(fst64, "fldz\nfstpl (%rdi)")                                                             \
	X(fst80, "fldz\nfstpt (%rdi)")                                                             \
	X(fild16, "filds (%rdi)\nffree %st")                                                       \
	X(fild32, "fildl (%rdi)\nffree %st")                                                       \
	X(fild64, "fildq (%rdi)\nffree %st")                                                       \
	X(fist64, "fldz\nfistpq (%rdi)")                                                           \
	X(fbld, "fbld (%rdi)\nffree %st")                                                          \
	X(fbstp, "fldz\nfbstp (%rdi)")                                                             \
	X(fldcw, "fldcw (%rdi)")                                                                   \
	X(fnstcw, "fnstcw (%rdi)")                                                                 \
	X(fnstsw, "fnstsw (%rdi)")                                                                 \
	X(fnstenv, "fnstenv (%rdi)")                                                               \
	X(fldenv, "fldenv (%rdi)")                                                                 \
	X(fnsave, "fnsave (%rdi)")                                                                 \
	X(frstor, "frstor (%rdi)")                                                                 \
	X(fxsave, "fxsave (%rdi)")                                                                 \
	X(fxrstor, "fxrstor (%rdi)")                                                               \
	X(xsave, "xor %edx,%edx\nmov $3,%eax\nxsave (%rdi)")                                       \
	X(stmxcsr, "stmxcsr (%rdi)")                                                               \
	X(ldmxcsr, "ldmxcsr (%rdi)")                                                               \
	X(pop64, "mov %rsp,%rbx\nmov %rdi,%rsp\npop %rax\nmov %rbx,%rsp")                          \
	X(call, "mov %rsp,%rbx\nmov %rdi,%rsp\ncall 9f\n9: mov %rbx,%rsp")                         \
	X(pushfq, "mov %rsp,%rbx\nmov %rdi,%rsp\npushf\nmov %rbx,%rsp")                            \
	X(enter, "mov %rsp,%rbx\nmov %rbp,%r12\nmov %rdi,%rsp\nenter $16,$0\nmov %rbx,%rsp\nmov "  \
		 "%r12,%rbp")                                                                      \
	X(leave,                                                                                   \
	  "mov %rsp,%rbx\nmov %rbp,%r12\nmov %rdi,%rbp\nleave\nmov %rbx,%rsp\nmov %r12,%rbp")      \
	X(movsq, "movsq")                                                                          \
	X(movsq_dst, "xchg %rdi,%rsi\nmovsq")                                                      \
	X(movsw, "xchg %rdi,%rsi\nmovsw")                                                          \
	X(rep_movsq, "mov $4,%ecx\nxchg %rdi,%rsi\nrep movsq")                                     \
	X(rep_movsb, "mov $40,%ecx\nrep movsb")                                                    \
	X(rep_stosq, "mov $4,%ecx\nrep stosq")                                                     \
	X(rep_stosb, "mov $40,%ecx\nrep stosb")                                                    \
	X(rep_movsd100, "mov $100,%ecx\nxchg %rdi,%rsi\nrep movsl")                                \
	X(stosd, "stosl")                                                                          \
	X(lodsq, "xchg %rdi,%rsi\nlodsq")                                                          \
	X(cmpsq, "cmpsq")                                                                          \
	X(scasw, "scasw")                                                                          \
	X(lgs, "lgs (%rdi),%eax")                                                                  \
	X(xlat, "mov %rdi,%rbx\nxlat")                                                             \
	X(fnstenv16, "data16 fnstenv (%rdi)")                                                      \
	X(fnsave16, "data16 fnsave (%rdi)")                                                        \
	X(fldenv16, "data16 fldenv (%rdi)")                                                        \
	X(frstor16, "data16 frstor (%rdi)")                                                        \
	X(bt16, "xor %ecx,%ecx\nbt %cx,(%rdi)")                                                    \
	X(bt64far, "mov $129,%ecx\nbt %rcx,(%rdi)")                                                \
	X(bt32far, "mov $65,%ecx\nbt %ecx,(%rdi)")                                                 \
	X(maskmovdqu1, "pcmpeqd %xmm1,%xmm1\nmaskmovdqu %xmm1,%xmm0")                              \
	X(maskmovq1, "pcmpeqd %mm1,%mm1\nmaskmovq %mm1,%mm0")                                      \
	X(cvtpi2ps, "cvtpi2ps (%rdi),%xmm0")                                                       \
	X(cvtps2pi, "cvtps2pi (%rdi),%mm0")                                                        \
	X(cvtpd2pi, "cvtpd2pi (%rdi),%mm0")                                                        \
	X(movntdqa, "movntdqa (%rdi),%xmm0")                                                       \
	X(movntq, "movntq %mm0,(%rdi)")                                                            \
	X(rep_cmpsq, "mov $4,%ecx\nrepe cmpsq")                                                    \
	X(rep_lodsd, "mov $4,%ecx\nxchg %rdi,%rsi\nrep lodsl")                                     \
	X(rep_scasd, "mov $4,%ecx\nrepne scasl")                                                   \
	X(movtosreg, "mov (%rdi),%es")                                                             \
	X(xchg64, "xchg %rax,(%rdi)")                                                              \
	X(xadd64, "xadd %rax,(%rdi)")                                                              \
	X(neg64, "negq (%rdi)")                                                                    \
	X(shl32, "shll $1,(%rdi)")                                                                 \
	X(mul64, "mulq (%rdi)")                                                                    \
	X(callm, "mov %rsp,%rbx\nlea 9f(%rip),%rax\nmov %rdi,%rsp\ncall *%rax\n9: mov %rbx,%rsp")  \
	X(xsaveopt, "xor %edx,%edx\nmov $3,%eax\nxsaveopt (%rdi)")                                 \
	X(xsavec, "xor %edx,%edx\nmov $3,%eax\nxsavec (%rdi)")                                     \
	X(xrstor, "xor %edx,%edx\nmov $3,%eax\nxrstor (%rdi)")                                     \
	X(pshufb_mm, "pshufb (%rdi),%mm0")                                                         \
	X(phaddw, "phaddw (%rdi),%mm0")                                                            \
	X(punpcklbw_mm, "punpcklbw (%rdi),%mm0")                                                   \
	X(packsswb_mm, "packsswb (%rdi),%mm0")                                                     \
	X(movq2, "movq %mm0,(%rdi)")                                                               \
	X(movd_st, "movd %mm0,(%rdi)")                                                             \
	X(roundsd, "roundsd $0,(%rdi),%xmm0")                                                      \
	X(punpckldq_mm, "punpckldq (%rdi),%mm0")                                                   \
	X(punpckhbw_mm, "punpckhbw (%rdi),%mm0")                                                   \
	X(psllw_mm, "psllw (%rdi),%mm0")                                                           \
	X(pmuludq_mm, "pmuludq (%rdi),%mm0")                                                       \
	X(cvttpd2pi, "cvttpd2pi (%rdi),%mm0")                                                      \
	X(cvtpi2pd, "cvtpi2pd (%rdi),%xmm0")                                                       \
	X(pinsrw_mm, "pinsrw $0,(%rdi),%mm0")                                                      \
	X(pinsrb, "pinsrb $0,(%rdi),%xmm0")                                                        \
	X(rcpss, "rcpss (%rdi),%xmm0")                                                             \
	X(cvtss2sd, "cvtss2sd (%rdi),%xmm0")                                                       \
	X(fadd32, "fldz\nfadds (%rdi)")                                                            \
	X(fcom64, "fldz\nfcoml (%rdi)")                                                            \
	X(fiadd16, "fldz\nfiadds (%rdi)")                                                          \
	X(fisttp64, "fldz\nfisttpll (%rdi)")                                                       \
	X(fisttp16, "fldz\nfisttps (%rdi)")                                                        \
	X(cmpxchg32, "cmpxchg %ecx,(%rdi)")                                                        \
	X(lock_cmpxchg8b, "lock cmpxchg8b (%rdi)")                                                 \
	X(lock_cmpxchg16b, "lock cmpxchg16b (%rdi)")                                               \
	X(xchg8, "xchg %al,(%rdi)")                                                                \
	X(lock16, "lock addw $1,(%rdi)")                                                           \
	X(push64, "mov %rsp,%rbx\nmov %rdi,%rsp\npush %rax\nmov %rbx,%rsp")                        \
	X(push16, "mov %rsp,%rbx\nmov %rdi,%rsp\npush %ax\nmov %rbx,%rsp")                         \
	X(pcmpistri, "pcmpistri $0,(%rdi),%xmm0")                                                  \
	X(pcmpestri, "pcmpestri $0,(%rdi),%xmm0")                                                  \
	X(store_sreg, "mov %ds,(%rdi)")                                                            \
	X(load8, "mov (%rdi),%al")                                                                 \
	V(mulx, "mulx (%rdi),%rax,%rcx")                                                           \
	V(vmovups_x, "vmovups (%rdi),%xmm0")                                                       \
	V(vmovups_xst, "vmovups %xmm0,(%rdi)")                                                     \
	V(vmovups_y, "vmovups (%rdi),%ymm0")                                                       \
	V(vmovups_yst, "vmovups %ymm0,(%rdi)")                                                     \
	V(vmovdqu_y, "vmovdqu (%rdi),%ymm0")                                                       \
	V(vlddqu_y, "vlddqu (%rdi),%ymm0")                                                         \
	V(vaddps_x, "vaddps (%rdi),%xmm0,%xmm0")                                                   \
	V(vaddps_y, "vaddps (%rdi),%ymm0,%ymm0")                                                   \
	V(vpaddb_y, "vpaddb (%rdi),%ymm0,%ymm0")                                                   \
	V(vaddsd, "vaddsd (%rdi),%xmm0,%xmm0")                                                     \
	V(vaddss, "vaddss (%rdi),%xmm0,%xmm0")                                                     \
	V(vmovsd, "vmovsd (%rdi),%xmm0")                                                           \
	V(vmovq, "vmovq (%rdi),%xmm0")                                                             \
	V(vmovd, "vmovd (%rdi),%xmm0")                                                             \
	V(vmovhps, "vmovhps (%rdi),%xmm0,%xmm0")                                                   \
	V(vbroadcastss, "vbroadcastss (%rdi),%ymm0")                                               \
	V(vbroadcastsd, "vbroadcastsd (%rdi),%ymm0")                                               \
	V(vbroadcastf128, "vbroadcastf128 (%rdi),%ymm0")                                           \
	V(vpbroadcastb, "vpbroadcastb (%rdi),%ymm0")                                               \
	V(vpbroadcastw, "vpbroadcastw (%rdi),%ymm0")                                               \
	V(vinsertf128, "vinsertf128 $1,(%rdi),%ymm0,%ymm0")                                        \
	V(vextractf128, "vextractf128 $1,%ymm0,(%rdi)")                                            \
	V(vpermps, "vpermps (%rdi),%ymm0,%ymm0")                                                   \
	V(vpmovzxbw_y, "vpmovzxbw (%rdi),%ymm0")                                                   \
	V(vcvtps2pd_y, "vcvtps2pd (%rdi),%ymm0")                                                   \
	V(vcvtpd2ps_y, "vcvtpd2psy (%rdi),%xmm0")                                                  \
	V(vcvtph2ps, "vcvtph2ps (%rdi),%xmm0")                                                     \
	V(vcvtph2ps_y, "vcvtph2ps (%rdi),%ymm0")                                                   \
	V(vcvtps2ph, "vcvtps2ph $0,%xmm0,(%rdi)")                                                  \
	V(vmaskmovps_y, "vpcmpeqd %ymm1,%ymm1,%ymm1\nvmaskmovps (%rdi),%ymm1,%ymm0")               \
	V(vpmaskmovq_st, "vpcmpeqd %ymm1,%ymm1,%ymm1\nvpmaskmovq %ymm0,%ymm1,(%rdi)")              \
	V(vpgatherdd, "vpcmpeqd %ymm1,%ymm1,%ymm1\nvpxor %ymm2,%ymm2,%ymm2\nvpgatherdd "           \
		      "%ymm1,(%rdi,%ymm2,1),%ymm0")                                                \
	V(vpgatherqq, "vpcmpeqd %ymm1,%ymm1,%ymm1\nvpxor %ymm2,%ymm2,%ymm2\nvpgatherqq "           \
		      "%ymm1,(%rdi,%ymm2,1),%ymm0")                                                \
	V(vfmadd_y, "vfmadd231ps (%rdi),%ymm0,%ymm0")                                              \
	V(vmaskmovps_x0, "vpxor %xmm1,%xmm1,%xmm1\nvmaskmovps (%rdi),%xmm1,%xmm0")                 \
	V(vcvtps2ph_y, "vcvtps2ph $0,%ymm0,(%rdi)")                                                \
	V(vcvtps2pd_x, "vcvtps2pd (%rdi),%xmm0")                                                   \
	V(vcvtdq2pd_x, "vcvtdq2pd (%rdi),%xmm0")                                                   \
	V(vpmovzxbd_y, "vpmovzxbd (%rdi),%ymm0")                                                   \
	V(vpmovzxbq_y, "vpmovzxbq (%rdi),%ymm0")                                                   \
	V(vpmovsxdq_x, "vpmovsxdq (%rdi),%xmm0")                                                   \
	V(vpsllw_m128, "vpsllw (%rdi),%ymm0,%ymm0")                                                \
	V(vmovddup_x, "vmovddup (%rdi),%xmm0")                                                     \
	V(vmovddup_y, "vmovddup (%rdi),%ymm0")                                                     \
	V(vmovlps_st, "vmovlps %xmm0,(%rdi)")                                                      \
	V(vmovhps_st, "vmovhps %xmm0,(%rdi)")                                                      \
	V(vmovntdq_y, "vmovntdq %ymm0,(%rdi)")                                                     \
	V(vmovntdqa_y, "vmovntdqa (%rdi),%ymm0")                                                   \
	V(vpextrw, "vpextrw $0,%xmm0,(%rdi)")                                                      \
	V(vpextrd, "vpextrd $0,%xmm0,(%rdi)")                                                      \
	V(vpinsrd, "vpinsrd $0,(%rdi),%xmm0,%xmm0")                                                \
	V(vpextrb, "vpextrb $0,%xmm0,(%rdi)")                                                      \
	V(vinsertps, "vinsertps $0,(%rdi),%xmm0,%xmm0")                                            \
	V(vcvtsi2sd, "vcvtsi2sdq (%rdi),%xmm0,%xmm0")                                              \
	V(vcvttsd2si, "vcvttsd2si (%rdi),%rax")                                                    \
	V(vucomisd, "vucomisd (%rdi),%xmm0")                                                       \
	V(vsqrtsd, "vsqrtsd (%rdi),%xmm0,%xmm0")                                                   \
	V(dppd, "vdppd $0,(%rdi),%xmm0,%xmm0")                                                     \
	V(vpsrldq, "vpsrlw (%rdi),%xmm0,%xmm0")                                                    \
	V(vphminposuw, "vphminposuw (%rdi),%xmm0")                                                 \
	V(mpsadbw, "vmpsadbw $0,(%rdi),%xmm0,%xmm0")                                               \
	V(movshdup, "vmovshdup (%rdi),%xmm0")

/* With AC set, nothing else touches memory but the stack. */
#define CODE(name, text)                                                                           \
	__asm__(".pushsection .text\n"                                                             \
		".globl align_" #name "\n"                                                         \
		"align_" #name ":\n"                                                               \
		"push %rbx\npush %r12\n"                                                           \
		"mov align_other(%rip), %rsi\n"                                                    \
		"sub $8, %rsp\n"                                                                   \
		"pushf\norl $0x40000, (%rsp)\npopf\n" text "\n"                                    \
		"pushf\nandl $~0x40000, (%rsp)\npopf\n"                                            \
		"add $8, %rsp\n"                                                                   \
		"pop %r12\npop %rbx\nret\n"                                                        \
		".popsection\n");                                                                  \
	extern void align_##name(void *);
ROWS(CODE, CODE)

void *align_other __attribute__((used));

static const struct {
	const char *name;
	void (*fn)(void *);
	int avx;
} rows[] = {
#define PLAIN(name, text) {#name, align_##name, 0},
#define AVX(name, text)	  {#name, align_##name, 1},
    ROWS(PLAIN, AVX)};

#define OFFSETS 64u

/* In the order of the offsets: nothing, #AC, or another fault. */
static void row_try(void (*fn)(void *), uint8_t *at, char seen[OFFSETS + 1])
{
	static const uint32_t csr = 0x1f80;

	for (unsigned i = 0; i < OFFSETS; i++) {
		__asm__ volatile("fninit\n\tldmxcsr %0" ::"m"(csr));
		memset(at - PAGE, 0, 2 * PAGE);
		struct caught c = caught_in(fn, at + i);
		seen[i] = !c.sig ? '.' : c.sig == SIGBUS ? 'A' : c.sig == SIGSEGV ? 'G' : '?';
	}
	__asm__ volatile("fninit\n\tldmxcsr %0" ::"m"(csr));
	seen[OFFSETS] = 0;
}

static unsigned alignment_of(const char *seen)
{
	for (unsigned align = 1; align <= OFFSETS; align *= 2) {
		unsigned same = 0;
		for (unsigned i = 0; i < OFFSETS; i++)
			same += seen[i] == (i % align ? 'A' : '.');
		if (same == OFFSETS)
			return align;
	}
	return 0;
}

static void alignment(void)
{
	static uint8_t stack[65536];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
	uint8_t *m = map_rw(4 * PAGE), *other = map_rw(PAGE);
	int avx = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
		  __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");

	sigaltstack(&ss, NULL);
	align_other = other + PAGE / 2;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		char seen[OFFSETS + 1];
		if (rows[i].avx && !avx)
			continue;
		row_try(rows[i].fn, m + 2 * PAGE, seen);
		unsigned align = alignment_of(seen);
		if (align)
			say("%s: %u", rows[i].name, align);
		else
			say("%s: %s", rows[i].name, seen);
	}
}

const struct probe probes_align[] = {{"alignment", alignment, 0}, {0}};
