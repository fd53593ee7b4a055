/* fw_cfg.h: the firmware configuration device: named blobs from the host for firmware and guest. */
#ifndef DEV_PC_FW_CFG_H
#define DEV_PC_FW_CFG_H

#include "bus/space.h"
#include "mem/gmem.h"

/* Well-known keys. */
#define FW_CFG_SIGNATURE     0x00
#define FW_CFG_ID	     0x01
#define FW_CFG_UUID	     0x02
#define FW_CFG_RAM_SIZE	     0x03
#define FW_CFG_NOGRAPHIC     0x04
#define FW_CFG_NB_CPUS	     0x05
#define FW_CFG_KERNEL_ADDR   0x07
#define FW_CFG_KERNEL_SIZE   0x08
#define FW_CFG_INITRD_ADDR   0x0a
#define FW_CFG_INITRD_SIZE   0x0b
#define FW_CFG_BOOT_MENU     0x0e
#define FW_CFG_MAX_CPUS	     0x0f
#define FW_CFG_KERNEL_DATA   0x11
#define FW_CFG_INITRD_DATA   0x12
#define FW_CFG_CMDLINE_ADDR  0x13
#define FW_CFG_CMDLINE_SIZE  0x14
#define FW_CFG_CMDLINE_DATA  0x15
#define FW_CFG_SETUP_ADDR    0x16
#define FW_CFG_SETUP_SIZE    0x17
#define FW_CFG_SETUP_DATA    0x18
#define FW_CFG_FILE_DIR	     0x19
#define FW_CFG_FILE_FIRST    0x20
#define FW_CFG_FILE_SLOTS    64
#define FW_CFG_ARCH_LOCAL    0x8000
#define FW_CFG_E820_TABLE    0x8003
#define FW_CFG_IRQ0_OVERRIDE 0x8002
#define FW_CFG_MAX_FILE	     (UINT32_C(1) << 30)
#define FW_CFG_NAME_MAX	     55 /* bytes without the end */

struct fw_cfg_config {
	struct space *ports;
	uint16_t base;	  /* 0x510: selector, 0x511: data, 0x514..0x51b: DMA address */
	struct gmem *mem; /* for DMA */
};

enum fw_cfg_flags {
	FW_CFG_REFER = 1 << 0,	  /* keep the pointer (it outlives the device) instead of a copy */
	FW_CFG_WRITABLE = 1 << 1, /* a guest may write it through DMA; a copy is always made */
};

NODISCARD int fw_cfg_new(struct device **dev, const struct fw_cfg_config *cfg, struct error *err);

/* Set-up, or while no vCPU runs: adds an item or replaces its content. Numbers are little-endian.
 * Files get their keys in order of name. -ENOSPC, -EINVAL (name too long, item too big), -ENOMEM,
 * each with a sentence. */
NODISCARD int fw_cfg_item(struct device *dev, uint16_t key, const void *data, size_t len,
			  unsigned flags, struct error *err);
NODISCARD int fw_cfg_u16(struct device *dev, uint16_t key, uint16_t value, struct error *err);
NODISCARD int fw_cfg_u32(struct device *dev, uint16_t key, uint32_t value, struct error *err);
NODISCARD int fw_cfg_u64(struct device *dev, uint16_t key, uint64_t value, struct error *err);
NODISCARD int fw_cfg_file(struct device *dev, const char *name, const void *data, size_t len,
			  unsigned flags, struct error *err);

/* Copies out what the guest wrote to a writable file; the number of bytes, or -ENOENT. */
NODISCARD long fw_cfg_file_read(struct device *dev, const char *name, void *buf, size_t len);

#endif
