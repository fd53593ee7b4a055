/* regs.h: names for control bits, flags, vectors and MSRs (SDM3 2, 6, SDM4; APM2 3). */
#ifndef X86_REGS_H
#define X86_REGS_H

#include "base/util.h"

#define X86_CF	  BIT32(0)
#define X86_FIXED BIT32(1)
#define X86_PF	  BIT32(2)
#define X86_AF	  BIT32(4)
#define X86_ZF	  BIT32(6)
#define X86_SF	  BIT32(7)
#define X86_TF	  BIT32(8)
#define X86_IF	  BIT32(9)
#define X86_DF	  BIT32(10)
#define X86_OF	  BIT32(11)
#define X86_IOPL  (3u << 12)
#define X86_NT	  BIT32(14)
#define X86_RF	  BIT32(16)
#define X86_VM	  BIT32(17)
#define X86_AC	  BIT32(18)
#define X86_VIF	  BIT32(19)
#define X86_VIP	  BIT32(20)
#define X86_ID	  BIT32(21)
#define X86_ARITH (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF)

#define X86_CR0_PE BIT64(0)
#define X86_CR0_MP BIT64(1)
#define X86_CR0_EM BIT64(2)
#define X86_CR0_TS BIT64(3)
#define X86_CR0_ET BIT64(4)
#define X86_CR0_NE BIT64(5)
#define X86_CR0_WP BIT64(16)
#define X86_CR0_AM BIT64(18)
#define X86_CR0_NW BIT64(29)
#define X86_CR0_CD BIT64(30)
#define X86_CR0_PG BIT64(31)

#define X86_CR3_NOFLUSH BIT64(63)

#define X86_CR4_VME	   BIT64(0)
#define X86_CR4_PVI	   BIT64(1)
#define X86_CR4_TSD	   BIT64(2)
#define X86_CR4_DE	   BIT64(3)
#define X86_CR4_PSE	   BIT64(4)
#define X86_CR4_PAE	   BIT64(5)
#define X86_CR4_MCE	   BIT64(6)
#define X86_CR4_PGE	   BIT64(7)
#define X86_CR4_PCE	   BIT64(8)
#define X86_CR4_OSFXSR	   BIT64(9)
#define X86_CR4_OSXMMEXCPT BIT64(10)
#define X86_CR4_UMIP	   BIT64(11)
#define X86_CR4_LA57	   BIT64(12)
#define X86_CR4_VMXE	   BIT64(13)
#define X86_CR4_FSGSBASE   BIT64(16)
#define X86_CR4_PCIDE	   BIT64(17)
#define X86_CR4_OSXSAVE	   BIT64(18)
#define X86_CR4_SMEP	   BIT64(20)
#define X86_CR4_SMAP	   BIT64(21)
#define X86_CR4_PKE	   BIT64(22)

#define X86_EFER_SCE   BIT64(0)
#define X86_EFER_LME   BIT64(8)
#define X86_EFER_LMA   BIT64(10)
#define X86_EFER_NXE   BIT64(11)
#define X86_EFER_SVME  BIT64(12)
#define X86_EFER_FFXSR BIT64(14)
#define X86_EFER_AIBRS BIT64(21) /* Automatic IBRS */

#define X86_XCR0_X87	BIT64(0)
#define X86_XCR0_SSE	BIT64(1)
#define X86_XCR0_AVX	BIT64(2)
#define X86_XCR0_AVX512 (BIT64(5) | BIT64(6) | BIT64(7))

/* Page-table entries (SDM3 4.5) */
#define X86_PTE_P   BIT64(0)
#define X86_PTE_W   BIT64(1)
#define X86_PTE_U   BIT64(2)
#define X86_PTE_PWT BIT64(3)
#define X86_PTE_PCD BIT64(4)
#define X86_PTE_A   BIT64(5)
#define X86_PTE_D   BIT64(6)
#define X86_PTE_PS  BIT64(7)
#define X86_PTE_G   BIT64(8)
#define X86_PTE_NX  BIT64(63)

/* Page-fault error code (SDM3 4.7) */
#define X86_PFERR_P    BIT32(0)
#define X86_PFERR_W    BIT32(1)
#define X86_PFERR_U    BIT32(2)
#define X86_PFERR_RSVD BIT32(3)
#define X86_PFERR_I    BIT32(4)

/* Exception vectors (SDM3 6.15) */
enum x86_vector {
	X86_VEC_DE = 0,
	X86_VEC_DB = 1,
	X86_VEC_NMI = 2,
	X86_VEC_BP = 3,
	X86_VEC_OF = 4,
	X86_VEC_BR = 5,
	X86_VEC_UD = 6,
	X86_VEC_NM = 7,
	X86_VEC_DF = 8,
	X86_VEC_TS = 10,
	X86_VEC_NP = 11,
	X86_VEC_SS = 12,
	X86_VEC_GP = 13,
	X86_VEC_PF = 14,
	X86_VEC_MF = 16,
	X86_VEC_AC = 17,
	X86_VEC_MC = 18,
	X86_VEC_XM = 19,
};

#define X86_DR6_FIXED UINT64_C(0xffff0ff0)
#define X86_DR6_BD    BIT64(13)
#define X86_DR6_BS    BIT64(14)
#define X86_DR6_BT    BIT64(15)
#define X86_DR7_FIXED UINT64_C(0x400)
#define X86_DR7_GD    BIT64(13)

#define X86_DEBUGCTL_BTF BIT64(1)

/* IA32_ARCH_CAPABILITIES (SDM4, MSR 10AH): what this CPU is not affected by. */
#define X86_ARCH_RDCL_NO  BIT64(0)  /* Meltdown, L1 terminal fault */
#define X86_ARCH_IBRS_ALL BIT64(1)  /* enhanced IBRS */
#define X86_ARCH_L1D_NO	  BIT64(3)  /* no flush of the L1 needed at VM entry */
#define X86_ARCH_MDS_NO	  BIT64(5)  /* microarchitectural data sampling */
#define X86_ARCH_MCE_NO	  BIT64(6)  /* no machine check when a page's size changes */
#define X86_ARCH_TSX_CTRL BIT64(7)  /* there is IA32_TSX_CTRL */
#define X86_ARCH_TAA_NO	  BIT64(8)  /* TSX asynchronous abort */
#define X86_ARCH_SBDR_NO  BIT64(13) /* stale data of MMIO: shared buffers, */
#define X86_ARCH_FBSDP_NO BIT64(14) /* ... fill buffers, */
#define X86_ARCH_PSDP_NO  BIT64(15) /* ... primary stale data */
#define X86_ARCH_BHI_NO	  BIT64(20) /* branch history injection */
#define X86_ARCH_PBRSB_NO BIT64(24) /* post-barrier return stack buffer */
#define X86_ARCH_GDS_NO	  BIT64(26) /* gather data sampling */
#define X86_ARCH_RFDS_NO  BIT64(27) /* register file data sampling */
#define X86_ARCH_ITS_NO	  BIT64(62) /* indirect target selection */

#define MSR_TSC		   0x10u
#define MSR_PLATFORM_ID	   0x17u
#define MSR_APIC_BASE	   0x1bu
#define MSR_FEATURE_CTL	   0x3au
#define MSR_TSC_ADJUST	   0x3bu
#define MSR_SPEC_CTRL	   0x48u
#define MSR_PRED_CMD	   0x49u
#define MSR_BIOS_SIGN	   0x8bu
#define MSR_MTRR_CAP	   0xfeu
#define MSR_ARCH_CAP	   0x10au
#define MSR_SYSENTER_CS	   0x174u
#define MSR_SYSENTER_ESP   0x175u
#define MSR_SYSENTER_EIP   0x176u
#define MSR_MCG_CAP	   0x179u
#define MSR_MCG_STATUS	   0x17au
#define MSR_MCG_CTL	   0x17bu
#define MSR_MISC_ENABLE	   0x1a0u
#define MSR_DEBUGCTL	   0x1d9u
#define MSR_MTRR_PHYSBASE0 0x200u
#define MSR_MTRR_FIX64K	   0x250u
#define MSR_MTRR_FIX16K_8  0x258u
#define MSR_MTRR_FIX16K_A  0x259u
#define MSR_MTRR_FIX4K_C0  0x268u
#define MSR_PAT		   0x277u
#define MSR_MTRR_DEF	   0x2ffu
#define MSR_MC0_CTL	   0x400u
#define MSR_TSC_DEADLINE   0x6e0u
#define MSR_X2APIC_FIRST   0x800u
#define MSR_X2APIC_LAST	   0x8ffu
#define MSR_XSS		   0xda0u
#define MSR_EFER	   0xc0000080u
#define MSR_STAR	   0xc0000081u
#define MSR_LSTAR	   0xc0000082u
#define MSR_CSTAR	   0xc0000083u
#define MSR_SFMASK	   0xc0000084u
#define MSR_FS_BASE	   0xc0000100u
#define MSR_GS_BASE	   0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX	   0xc0000103u
#define MSR_SYSCFG	   0xc0010010u
#define MSR_HWCR	   0xc0010015u
#define MSR_VM_CR	   0xc0010114u
#define MSR_OSVW_ID_LEN	   0xc0010140u
#define MSR_OSVW_STATUS	   0xc0010141u
#define MSR_DE_CFG	   0xc0011029u

#endif
