/*
 * dsdt.asl: the machine as ACPI's namespace sees it (ACPI 6.5), everything but its processors.
 *
 * What differs between VMs (sizes of windows, which devices are there) is not patched into this table:
 * it comes as named integers from a small SSDT that acpi_ssdt.c makes, together with the processors. The
 * C preprocessor goes over this file before iasl does.
 */
DefinitionBlock ("dsdt.aml", "DSDT", 2, "POLYVM", "POLYDSDT", 1)
{
	External (\M32B, IntObj) // 32-bit PCI window: base, length
	External (\M32L, IntObj)
	External (\M64B, IntObj) // 64-bit PCI window: base, length
	External (\M64L, IntObj)
	External (\ECMB, IntObj) // ECAM: base, length
	External (\ECML, IntObj)
	External (\HPTB, IntObj) // HPET: base, 0 for none
	External (\COMC, IntObj) // how many serial ports
	External (\KBDP, IntObj) // PS/2 keyboard and mouse are there
	External (\FWCP, IntObj) // fw_cfg is there
	External (\PVPP, IntObj) // the panic port is there

// A device whose presence is one of the numbers above; 0x0B: not shown to the person.
#define PRESENT_IF(condition, status) Method (_STA) { If (condition) { Return (status) } Return (0) }

	// Soft off is the only sleep state: SLP_TYPa 5 (BOARD_SLP_TYP_S5).
	Name (\_S5, Package () { 5, 5, 0, 0 })

	// Interrupt model: 0 PIC, 1 APIC (ACPI6.5 5.8.1). Decides which of PCI0's routing tables is shown.
	Name (\PICM, 0)
	Method (\_PIC, 1)
	{
		\PICM = Arg0
	}

	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_UID, 0)
			Name (_SEG, 0)
			Name (_BBN, 0)

			Name (WINS, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0xFF, 0, 0x100)
				IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0000, 0x0CF7, 0, 0x0CF8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0D00, 0xFFFF, 0, 0xF300)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,
					0, 0x000A0000, 0x000BFFFF, 0, 0x00020000)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, 0, 1, 0, 2, , , W32)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,
					0, 0, 1, 0, 2, , , W64)
			})
			CreateDWordField (WINS, W32._MIN, W32S)
			CreateDWordField (WINS, W32._MAX, W32E)
			CreateDWordField (WINS, W32._LEN, W32L)
			CreateQWordField (WINS, W64._MIN, W64S)
			CreateQWordField (WINS, W64._MAX, W64E)
			CreateQWordField (WINS, W64._LEN, W64L)

			Method (_CRS, 0, Serialized)
			{
				W32S = \M32B
				W32L = \M32L
				W32E = \M32B + \M32L - 1
				W64S = \M64B
				W64L = \M64L
				W64E = \M64B + \M64L - 1
				Return (WINS)
			}

			// PCI firmware specification 3.2, 4.5: the guest may have the PCIe capability, and there
			// is neither hot plug nor error reporting to hand over.
			Method (_OSC, 4)
			{
				CreateDWordField (Arg3, 0, STAT)
				If (Arg0 == ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766"))
				{
					CreateDWordField (Arg3, 8, CTRL)
					Local0 = CTRL & 0x10
					If (Arg1 != 1)
					{
						STAT |= 0x08
					}
					If (CTRL != Local0)
					{
						STAT |= 0x10
					}
					CTRL = Local0
				}
				Else
				{
					STAT |= 0x04
				}
				Return (Arg3)
			}

// INTx lines 0 to 7 (board_intx_line): IOAPIC inputs 16 to 23, PIC inputs 10 and 11.
#define PIN(slot, pin, gsi) Package () { 0x##slot##FFFF, pin, 0, gsi }
#define APIC_SLOT(slot, a, b, c, d) PIN (slot, 0, a), PIN (slot, 1, b), PIN (slot, 2, c), PIN (slot, 3, d)
#define APIC_EIGHT(s0, s1, s2, s3, s4, s5, s6, s7) \
	APIC_SLOT (s0, 16, 17, 18, 19), APIC_SLOT (s1, 17, 18, 19, 20), \
	APIC_SLOT (s2, 18, 19, 20, 21), APIC_SLOT (s3, 19, 20, 21, 22), \
	APIC_SLOT (s4, 20, 21, 22, 23), APIC_SLOT (s5, 21, 22, 23, 16), \
	APIC_SLOT (s6, 22, 23, 16, 17), APIC_SLOT (s7, 23, 16, 17, 18)
#define PIC_FOUR(s0, s1, s2, s3) \
	APIC_SLOT (s0, 10, 10, 11, 11), APIC_SLOT (s1, 10, 11, 11, 10), \
	APIC_SLOT (s2, 11, 11, 10, 10), APIC_SLOT (s3, 11, 10, 10, 11)
#define PIC_EIGHT(s0, s1, s2, s3, s4, s5, s6, s7) \
	PIC_FOUR (s0, s1, s2, s3), PIC_FOUR (s4, s5, s6, s7)

			Name (PRTA, Package ()
			{
				APIC_EIGHT (0, 1, 2, 3, 4, 5, 6, 7),
				APIC_EIGHT (8, 9, A, B, C, D, E, F),
				APIC_EIGHT (10, 11, 12, 13, 14, 15, 16, 17),
				APIC_EIGHT (18, 19, 1A, 1B, 1C, 1D, 1E, 1F)
			})
			Name (PRTP, Package ()
			{
				PIC_EIGHT (0, 1, 2, 3, 4, 5, 6, 7),
				PIC_EIGHT (8, 9, A, B, C, D, E, F),
				PIC_EIGHT (10, 11, 12, 13, 14, 15, 16, 17),
				PIC_EIGHT (18, 19, 1A, 1B, 1C, 1D, 1E, 1F)
			})
			Method (_PRT)
			{
				If (\PICM)
				{
					Return (PRTA)
				}
				Return (PRTP)
			}

			// The ISA bridge at 00:1f.0, and what is behind it.
			Device (ISA)
			{
				Name (_ADR, 0x001F0000)

				Device (PIC)
				{
					Name (_HID, EisaId ("PNP0000"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x20, 0x20, 1, 2)
						IO (Decode16, 0xA0, 0xA0, 1, 2)
						IO (Decode16, 0x4D0, 0x4D0, 1, 2)
						IRQNoFlags () { 2 }
					})
				}

				Device (TIMR)
				{
					Name (_HID, EisaId ("PNP0100"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x40, 0x40, 1, 4)
						IRQNoFlags () { 0 }
					})
				}

				Device (RTC)
				{
					Name (_HID, EisaId ("PNP0B00"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x70, 0x70, 1, 2)
						IRQNoFlags () { 8 }
					})
				}

				Device (KBD)
				{
					Name (_HID, EisaId ("PNP0303"))
					PRESENT_IF (\KBDP, 0x0F)
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x60, 0x60, 1, 1)
						IO (Decode16, 0x64, 0x64, 1, 1)
						IRQNoFlags () { 1 }
					})
				}

				Device (MOU)
				{
					Name (_HID, EisaId ("PNP0F13"))
					PRESENT_IF (\KBDP, 0x0F)
					Name (_CRS, ResourceTemplate ()
					{
						IRQNoFlags () { 12 }
					})
				}

#define COM_PORT(name, uid, port, irq) \
				Device (name) \
				{ \
					Name (_HID, EisaId ("PNP0501")) \
					Name (_UID, uid) \
					PRESENT_IF (\COMC >= uid, 0x0F) \
					Name (_CRS, ResourceTemplate () \
					{ \
						IO (Decode16, port, port, 1, 8) \
						IRQNoFlags () { irq } \
					}) \
				}
				COM_PORT (COM1, 1, 0x3F8, 4)
				COM_PORT (COM2, 2, 0x2F8, 3)
				COM_PORT (COM3, 3, 0x3E8, 4)
				COM_PORT (COM4, 4, 0x2E8, 3)

				Device (PEVT)
				{
					Name (_HID, "QEMU0001")
					PRESENT_IF (\PVPP, 0x0F)
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x505, 0x505, 1, 1)
					})
					OperationRegion (PEOR, SystemIO, 0x505, 1)
					Field (PEOR, ByteAcc, NoLock, Preserve)
					{
						PEPT, 8
					}
					Method (RDPT)
					{
						Return (PEPT)
					}
					Method (WRPT, 1)
					{
						PEPT = Arg0
					}
				}
			}
		}

		Device (FWCF)
		{
			Name (_HID, "QEMU0002")
			PRESENT_IF (\FWCP, 0x0B)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x510, 0x510, 1, 12)
			})
		}

		Device (HPET)
		{
			Name (_HID, EisaId ("PNP0103"))
			Name (_UID, 0)
			PRESENT_IF (\HPTB, 0x0F)
			Name (REGS, ResourceTemplate ()
			{
				Memory32Fixed (ReadOnly, 0xFED00000, 0x400, RGN)
			})
			CreateDWordField (REGS, RGN._BAS, BASE)
			Method (_CRS, 0, Serialized)
			{
				BASE = \HPTB
				Return (REGS)
			}
		}

		// What the board takes and no device above names: ECAM (PCI firmware specification 4.1.2
		// wants it reserved here), the power block and a few ports.
		Device (MBRD)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, 0)
			Name (REGS, ResourceTemplate ()
			{
				IO (Decode16, 0x92, 0x92, 1, 1)
				IO (Decode16, 0xB2, 0xB2, 1, 2)
				IO (Decode16, 0x600, 0x600, 1, 0x80)
				QWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, 0, 1, 0, 2, , , WIN)
			})
			CreateQWordField (REGS, WIN._MIN, WINS)
			CreateQWordField (REGS, WIN._MAX, WINE)
			CreateQWordField (REGS, WIN._LEN, WINL)
			Method (_CRS, 0, Serialized)
			{
				WINS = \ECMB
				WINL = \ECML
				WINE = \ECMB + \ECML - 1
				Return (REGS)
			}
		}
	}
}
