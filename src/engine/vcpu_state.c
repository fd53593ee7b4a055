/* vcpu_state.c: the saved-state table of a CPU. */
#include "engine/vcpu_state.h"

#include "x86/state.h"

#define SCALAR(tag, f)	 STATE_SCALAR(tag, struct x86_state, f)
#define ARRAY(tag, f, n) STATE_ARRAY(tag, struct x86_state, f, n)

/* A segment register takes four tags, a descriptor table two. */
#define SEGMENT(tag, f)                                                                            \
	SCALAR(tag, f.base), SCALAR((tag) + 1, f.limit), SCALAR((tag) + 2, f.attr),                \
	    SCALAR((tag) + 3, f.selector)
#define TABLE(tag, f) SCALAR(tag, f.base), SCALAR((tag) + 1, f.limit)

static const struct state_field fields[] = {
    ARRAY(1, gpr, 16),
    SCALAR(2, rip),
    SCALAR(3, rflags),
    SEGMENT(4, seg[X86_ES]),
    SEGMENT(8, seg[X86_CS]),
    SEGMENT(12, seg[X86_SS]),
    SEGMENT(16, seg[X86_DS]),
    SEGMENT(20, seg[X86_FS]),
    SEGMENT(24, seg[X86_GS]),
    SEGMENT(28, ldt),
    SEGMENT(32, tr),
    TABLE(36, gdt),
    TABLE(38, idt),
    SCALAR(40, cr0),
    SCALAR(41, cr2),
    SCALAR(42, cr3),
    SCALAR(43, cr4),
    SCALAR(44, efer),
    SCALAR(45, xcr0),
    SCALAR(46, xss),
    ARRAY(47, dr, 4),
    SCALAR(48, dr6),
    SCALAR(49, dr7),
    SCALAR(50, pkru),
    SCALAR(51, star),
    SCALAR(52, lstar),
    SCALAR(53, cstar),
    SCALAR(54, sfmask),
    SCALAR(55, kernel_gs_base),
    SCALAR(56, sysenter_cs),
    SCALAR(57, sysenter_esp),
    SCALAR(58, sysenter_eip),
    SCALAR(59, pat),
    SCALAR(60, tsc_aux),
    SCALAR(61, misc_enable),
    SCALAR(62, spec_ctrl),
    SCALAR(63, tsc_adjust),
    SCALAR(64, debugctl),
    SCALAR(65, smi_count),
    SCALAR(66, mtrr_def),
    ARRAY(67, mtrr_fixed, 11),
    ARRAY(68, mtrr_base, X86_MTRR_VAR),
    ARRAY(69, mtrr_mask, X86_MTRR_VAR),
    SCALAR(70, mcg_status),
    SCALAR(71, mcg_ctl),
    ARRAY(72, mc_bank, 16),
    SCALAR(73, tsc),
    SCALAR(74, activity),
    SCALAR(75, shadow_sti),
    SCALAR(76, shadow_ss),
    SCALAR(77, nmi_masked),
    SCALAR(78, in_smm),
    SCALAR(79, event_valid),
    SCALAR(80, event_vector),
    SCALAR(81, event_kind),
    SCALAR(82, event_has_error),
    SCALAR(83, event_error),
    ARRAY(84, fpu.vec, 32 * 64),
    ARRAY(85, fpu.fx, 512),
    ARRAY(86, fpu.k, 8),
    SCALAR(87, nmi_pending),
    SCALAR(88, init_pending),
    SCALAR(89, sipi_pending),
    SCALAR(90, sipi_vector),
    STATE_END,
};

static int check(const void *shadow, struct error *err)
{
	return x86_state_check(shadow, err);
}

const struct state_desc x86_state_desc = {
    .name = "cpu",
    .fields = fields,
    .size = sizeof(struct x86_state),
    .check = check,
};
