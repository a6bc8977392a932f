//! ACPI tables of a hardware-reduced machine (ACPI 6.5, section 4.1): what the guest finds CPUs,
//! interrupts, the PCI bus, the serial port and the power button by.

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Method, Name, Notify,
        Package, Path, ResourceTemplate, ZERO,
    },
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace as Space, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    mcfg::MCFG,
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    Error, Layout,
    layout::{self, input, port},
};

const OEM: [u8; 6] = *b"CRUMBL";
const OEM_TABLE: [u8; 8] = *b"CRACKER ";
const OEM_REVISION: u32 = 1;
/// The boot architecture flags (table 5.11): no VGA, no CMOS clock; and neither 8042 nor legacy
/// devices, whose flags are not set.
const NO_VGA: u16 = 1 << 2;
const NO_RTC: u16 = 1 << 5;
/// Bytes of the descriptor of `\_SB.PWRB`'s event, and of a value for `Notify` (section 5.6.6).
const BUTTON_PRESSED: u8 = 0x80;

/// Writes all tables and returns the address of the first, the RSDP.
pub(crate) fn write(memory: &GuestMemoryMmap, layout: &Layout, cpus: u8) -> Result<u64, Error> {
    let mut place = Place {
        memory,
        next: layout::ACPI.saturating_add(64),
    };
    let dsdt = place.put(&dsdt(layout))?;
    let fadt = place.put(&fadt(dsdt))?;
    let madt = place.put(&bytes(&madt(cpus)))?;
    let mcfg = place.put(&bytes(&mcfg()))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = place.put(&bytes(&xsdt))?;
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    memory.write_slice(&rsdp, GuestAddress(layout::ACPI))?;
    Ok(layout::ACPI)
}

/// Tables one after the other.
struct Place<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Place<'_> {
    fn put(&mut self, table: &[u8]) -> Result<u64, Error> {
        let at = self.next;
        let end = at.checked_add(table.len() as u64).ok_or(Error::Tables)?;
        if end > layout::ACPI.saturating_add(layout::ACPI_SIZE) {
            return Err(Error::Tables);
        }
        self.memory.write_slice(table, GuestAddress(at))?;
        self.next = end.checked_next_multiple_of(16).ok_or(Error::Tables)?;
        Ok(at)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let register = |port: u16| GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Wbinvd);
    fadt.iapc_boot_arch = (NO_VGA | NO_RTC).into();
    fadt.reset_reg = register(port::RESET);
    fadt.reset_value = port::RESET_VALUE;
    fadt.sleep_control_reg = register(port::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(port::SLEEP_STATUS);
    bytes(&fadt.finalize())
}

fn madt(cpus: u8) -> MADT {
    let apic = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, apic);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    madt
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM, 0, 0, 0);
    mcfg
}

fn dsdt(layout: &Layout) -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    pci(layout, &mut dsdt);
    serial(&mut dsdt);
    panic_device(&mut dsdt);
    power(&mut dsdt);
    dsdt.update_checksum();
    dsdt.as_slice().to_vec()
}

fn add(dsdt: &mut Sdt, object: &dyn Aml) {
    dsdt.append_slice(&bytes(object));
}

/// The root bridge with its bus and its window. It routes no INTx: everything has MSI-X.
fn pci(layout: &Layout, dsdt: &mut Sdt) {
    let window = layout.pci_window();
    let last = window.end.saturating_sub(1);
    let resources = ResourceTemplate::new(vec![
        &AddressSpace::<u16>::new_bus_number(0, 0),
        &AddressSpace::<u64>::new_memory(
            AddressSpaceCacheable::PreFetchable,
            true,
            window.start,
            last,
            None,
        ),
    ])
    .to_owned_bytes();
    let device = [
        named("_HID", &EISAName::new("PNP0A08")),
        named("_CID", &EISAName::new("PNP0A03")),
        named("_SEG", &ZERO),
        named("_BBN", &ZERO),
        named("_UID", &ZERO),
        named("_CRS", &Raw(resources)),
    ];
    add_device(dsdt, "_SB_.PCI0", &device);
    // Configuration space belongs to nobody else (PCI Firmware 3.3, section 4.1.2).
    let reserved = ResourceTemplate::new(vec![&AddressSpace::<u64>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::ECAM,
        layout::ECAM
            .saturating_add(layout::ECAM_SIZE)
            .saturating_sub(1),
        None,
    )])
    .to_owned_bytes();
    let board = [
        named("_HID", &EISAName::new("PNP0C02")),
        named("_CRS", &Raw(reserved)),
    ];
    add_device(dsdt, "_SB_.MBRD", &board);
}

fn serial(dsdt: &mut Sdt) {
    let resources = ResourceTemplate::new(vec![
        &Interrupt::new(true, true, false, false, input::SERIAL),
        &IO::new(port::SERIAL, port::SERIAL, 0, 8),
    ])
    .to_owned_bytes();
    let device = [
        named("_HID", &EISAName::new("PNP0501")),
        named("_UID", &ZERO),
        named("_CRS", &Raw(resources)),
    ];
    add_device(dsdt, "_SB_.COM1", &device);
}

fn panic_device(dsdt: &mut Sdt) {
    let resources =
        ResourceTemplate::new(vec![&IO::new(port::PANIC, port::PANIC, 0, 1)]).to_owned_bytes();
    let device = [
        named("_HID", &"QEMU0001"),
        named("_UID", &ZERO),
        named("_CRS", &Raw(resources)),
    ];
    add_device(dsdt, "_SB_.PEVT", &device);
}

/// A power button, pressed by an interrupt of the generic event device (section 5.6.9), and the
/// state that it leads to.
fn power(dsdt: &mut Sdt) {
    add_device(
        dsdt,
        "_SB_.PWRB",
        &[named("_HID", &EISAName::new("PNP0C0C"))],
    );
    let resources = ResourceTemplate::new(vec![&Interrupt::new(
        true,
        true,
        false,
        false,
        input::POWER,
    )])
    .to_owned_bytes();
    let pressed = Notify::new(&Path::new("\\_SB_.PWRB"), &BUTTON_PRESSED).to_owned_bytes();
    let event = Method::new("_EVT".into(), 1, true, vec![&Raw(pressed)]).to_owned_bytes();
    let device = [
        named("_HID", &"ACPI0013"),
        named("_UID", &ZERO),
        named("_CRS", &Raw(resources)),
        event,
    ];
    add_device(dsdt, "_SB_.GED0", &device);
    let off = Package::new(vec![&layout::SLEEP_TYPE_OFF]);
    add(dsdt, &Name::new("_S5_".into(), &off));
}

fn named(name: &str, value: &dyn Aml) -> Vec<u8> {
    Name::new(name.into(), value).to_owned_bytes()
}

fn add_device(dsdt: &mut Sdt, path: &str, members: &[Vec<u8>]) {
    let members: Vec<Raw> = members.iter().cloned().map(Raw).collect();
    let children = members.iter().map(|member| member as &dyn Aml).collect();
    add(dsdt, &Device::new(path.into(), children));
}

/// AML that is bytes already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

trait ToOwnedBytes: Aml {
    /// The object's bytes, so that it need not outlive what it is built from.
    fn to_owned_bytes(&self) -> Vec<u8>;
}

impl<T: Aml> ToOwnedBytes for T {
    fn to_owned_bytes(&self) -> Vec<u8> {
        bytes(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn table(memory: &GuestMemoryMmap, at: u64) -> Vec<u8> {
        let length: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        let mut bytes = vec![0; length as usize];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    #[test]
    fn every_table_is_found_and_its_bytes_add_up_to_zero() {
        for cpus in [1, 8, 254] {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
            let rsdp = write(&memory, &Layout::new(5 << 30), cpus).unwrap();
            let mut root = [0; 36];
            memory.read_slice(&mut root, GuestAddress(rsdp)).unwrap();
            assert!(root.starts_with(b"RSD PTR ") && sum(&root) == 0);
            let xsdt = table(
                &memory,
                u64::from_le_bytes(root[24..32].try_into().unwrap()),
            );
            assert!(xsdt.starts_with(b"XSDT") && sum(&xsdt) == 0);
            let mut signatures = Vec::new();
            for entry in xsdt[36..].chunks(8) {
                let table = table(&memory, u64::from_le_bytes(entry.try_into().unwrap()));
                assert_eq!(sum(&table), 0);
                signatures.push(table[..4].to_vec());
            }
            assert_eq!(signatures, [b"FACP", b"APIC", b"MCFG"]);
        }
    }

    #[test]
    fn the_madt_lists_every_cpu() {
        for cpus in [1u8, 254] {
            // A processor's structure has 8 bytes and the I/O APIC's 12, after a header of 44.
            assert_eq!(bytes(&madt(cpus)).len(), 44 + 8 * usize::from(cpus) + 12);
        }
    }
}
