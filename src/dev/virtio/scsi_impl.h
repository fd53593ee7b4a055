/* scsi_impl.h: the SCSI host's private struct, shared by its files. */
#ifndef DEV_VIRTIO_SCSI_IMPL_H
#define DEV_VIRTIO_SCSI_IMPL_H

#include "base/le.h"
#include "dev/virtio/scsi.h"

#define SCSI_QUEUE_CTRL	   0
#define SCSI_QUEUE_EVENT   1
#define SCSI_QUEUE_REQUEST 2
#define SCSI_QUEUES	   3
#define SCSI_QUEUE_SIZE	   128
#define SCSI_REQUESTS	   64 /* in flight */

/* Configuration (5.6.4). */
enum {
	SCSI_CFG_NUM_QUEUES = 0,
	SCSI_CFG_SEG_MAX = 4,
	SCSI_CFG_MAX_SECTORS = 8,
	SCSI_CFG_CMD_PER_LUN = 12,
	SCSI_CFG_EVENT_INFO = 16,
	SCSI_CFG_SENSE_SIZE = 20,
	SCSI_CFG_CDB_SIZE = 24,
	SCSI_CFG_MAX_CHANNEL = 28,
	SCSI_CFG_MAX_TARGET = 30,
	SCSI_CFG_MAX_LUN = 32,
	SCSI_CFG_BYTES = 36,
};

/* Responses (5.6.6.1, 5.6.6.2). */
enum scsi_response {
	SCSI_OK = 0,
	SCSI_OVERRUN = 1,
	SCSI_BAD_TARGET = 3,
	SCSI_FAILURE = 9,
	SCSI_REJECTED = 11,
	SCSI_BAD_LUN = 12,
};

#define SCSI_CDB_MAX   32
#define SCSI_REQ_HEAD  19 /* before the CDB: LUN, id, attributes */
#define SCSI_RESP_HEAD 12 /* before the sense data */
#define SCSI_SENSE     18 /* fixed format */
#define SCSI_GOOD      0
#define SCSI_CHECK     2 /* CHECK CONDITION */
#define CD_BLOCK       2048u
#define CD_DATA_MAX    256 /* answers that are not the disc's content */

/* Why a command was refused: sense key, additional code and its qualifier (SPC-4 4.5.6). */
struct scsi_sense {
	uint8_t key, asc, ascq;
};

struct scsi;

/* What has become of the disc since the guest last asked (MMC-6 table 276). */
enum cd_event {
	CD_NO_CHANGE = 0,
	CD_EJECT_REQUEST = 1, /* somebody wants the disc, which the guest holds */
	CD_NEW_MEDIUM = 2,
	CD_REMOVAL = 3,
};

/* A drive, without what is on its disc. */
struct cd_drive {
	uint64_t blocks;  /* of the disc */
	_Bool present;	  /* there is a disc */
	_Bool locked;	  /* the guest keeps it from being taken out */
	_Bool open;	  /* the tray */
	_Bool attention;  /* a new disc that no command has been told of */
	uint8_t event;	  /* enum cd_event */
	unsigned reading; /* reads of the disc that are under way */
};

struct scsi_req {
	struct disk_req io; /* first */
	struct scsi *scsi;
	struct scsi_req *next;
	uint32_t data_at; /* offset of data in the writable part */
	uint32_t room;	  /* bytes for data */
	uint32_t reading; /* bytes of the disc; the back end uses io.len up */
	struct vq_chain chain;
	struct iovec iov[VQ_SEGS_MAX];
};

struct scsi {
	struct virtio_dev vd; /* first */
	struct disk *disk;    /* NULL: no disc */
	struct cd_drive drive;
	void (*ejected)(void *opaque);
	void *opaque;
	struct scsi_req *requests, *free;
	_Bool starved;
};

static inline struct scsi *scsi_of(struct virtio_dev *vd)
{
	return container_of(vd, struct scsi, vd);
}

/* What a command comes to. */
enum cd_kind {
	CD_DONE,  /* with `len` bytes of `data` for the driver */
	CD_READ,  /* `count` blocks from `lba` are to be read: within the disc */
	CD_ERROR, /* `sense` says why */
};
struct cd_result {
	enum cd_kind kind;
	struct scsi_sense sense;
	uint32_t len;
	uint64_t lba;
	uint32_t count;
	uint8_t data[CD_DATA_MAX];
};

/* scsi_cd.c: what the drive answers to a command of 32 bytes, which may open its tray. `present`:
 * the command is for LUN 0. */
void cd_command(struct cd_drive *drive, _Bool present, const uint8_t cdb[SCSI_CDB_MAX],
		struct cd_result *out);
void cd_take_out(struct cd_drive *drive);
void cd_put_in(struct cd_drive *drive, uint64_t blocks);

#endif
