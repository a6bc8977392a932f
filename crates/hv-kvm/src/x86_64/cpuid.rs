//! What the guest's CPUs say of themselves (Intel SDM volume 2, CPUID; AMD APM volume 3,
//! appendix E).

use hv::{Error, Result};
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::{Cap, Kvm};

use crate::call;

/// Leaf 1, ECX: x2APIC, TSC deadline timer, hypervisor.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: the package may have several logical CPUs.
const HTT: u32 = 1 << 28;

/// What KVM can offer, less what is not for guests.
#[derive(Debug, Clone)]
pub(crate) struct Cpuid(Vec<kvm_cpuid_entry2>);

impl Cpuid {
    pub(crate) fn supported(kvm: &Kvm) -> Result<Self> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
        let mut entries = supported.as_slice().to_vec();
        let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        for entry in entries.iter_mut().filter(|entry| entry.function == 1) {
            entry.ecx |= HYPERVISOR | X2APIC;
            if deadline {
                // Not in what KVM reports as supported, but emulated with the in-kernel APIC
                // (api.rst, 4.47). Without it the guest would calibrate its timer against a PIT.
                entry.ecx |= TSC_DEADLINE;
            }
        }
        complete_topology(&mut entries);
        Ok(Self(entries))
    }

    /// The width of physical addresses: what leaf 0x80000008 says of guests if it does, otherwise
    /// what it says of the CPU; 36 bits without that leaf.
    pub(crate) fn address_bits(&self) -> u8 {
        let leaf = self.0.iter().find(|entry| entry.function == 0x8000_0008);
        leaf.map_or(36, |entry| {
            let [cpu, _, guest, _] = entry.eax.to_le_bytes();
            if guest > 0 { guest } else { cpu }
        })
    }

    /// For the vCPU `index` of `count`, all of them cores of one package.
    pub(crate) fn of(&self, index: u8, count: u8) -> Result<CpuId> {
        let mut entries = self.0.clone();
        for entry in &mut entries {
            place(entry, index.into(), count.into());
        }
        CpuId::from_entries(&entries).map_err(|_| Error::Missing("room for CPUID entries"))
    }
}

/// Makes the extended topology leaves, where there are any, of three levels. KVM may offer the
/// first alone, in which a guest would find each CPU in a package of its own.
fn complete_topology(entries: &mut Vec<kvm_cpuid_entry2>) {
    let extended = |entry: &kvm_cpuid_entry2| matches!(entry.function, 0xb | 0x1f);
    let first = |entry: &&kvm_cpuid_entry2| extended(entry) && entry.index == 0;
    let firsts: Vec<_> = entries.iter().filter(first).copied().collect();
    entries.retain(|entry| !extended(entry));
    for entry in firsts {
        entries.extend((0..3).map(|index| kvm_cpuid_entry2 {
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            ..entry
        }));
    }
}

/// Writes the vCPU's place in the topology. Its APIC id is its index.
fn place(entry: &mut kvm_cpuid_entry2, index: u32, count: u32) {
    let id_bits = count.next_power_of_two().trailing_zeros();
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ebx = entry.ebx & 0xffff | count << 16 | index << 24;
            entry.edx = if count > 1 {
                entry.edx | HTT
            } else {
                entry.edx & !HTT
            };
        }
        // Deterministic caches: cores of the package less one, and nobody shares a cache.
        (4, _) if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x3fff | count.saturating_sub(1).min(63) << 26;
        }
        // Extended topology, and its second version: one thread a core, then the package.
        (0xb | 0x1f, level) => {
            (entry.eax, entry.ebx, entry.ecx) = match level {
                0 => (0, 1, 1 << 8),
                1 => (id_bits, count, 2 << 8 | 1),
                _ => (0, 0, level & 0xff),
            };
            entry.edx = index;
        }
        (0x8000_0008, _) => {
            entry.ecx = entry.ecx & !0xf0ff | id_bits << 12 | count.saturating_sub(1);
        }
        (0x8000_001e, _) => {
            entry.eax = index;
            entry.ebx = index;
            entry.ecx = 0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(function: u32, level: u32, index: u32, count: u32) -> kvm_cpuid_entry2 {
        let mut entry = kvm_cpuid_entry2 {
            function,
            index: level,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        place(&mut entry, index, count);
        entry
    }

    #[test]
    fn each_cpu_has_its_own_apic_id() {
        assert_eq!(placed(1, 0, 5, 8).ebx >> 24, 5);
        assert_eq!(placed(0xb, 0, 5, 8).edx, 5);
        assert_eq!(placed(0x8000_001e, 0, 5, 8).eax, 5);
    }

    #[test]
    fn addresses_are_as_wide_as_the_host_lets_guests_have_them() {
        let bits = |eax| {
            let leaf = kvm_cpuid_entry2 {
                function: 0x8000_0008,
                eax,
                ..Default::default()
            };
            Cpuid(vec![leaf]).address_bits()
        };
        assert_eq!((bits(0x3028), bits(0x30_3934)), (40, 48));
        assert_eq!(Cpuid(Vec::new()).address_bits(), 36);
    }

    #[test]
    fn one_cpu_alone_is_no_package_of_several() {
        assert_eq!(placed(1, 0, 0, 1).edx & HTT, 0);
        assert_eq!(placed(1, 0, 0, 2).edx & HTT, HTT);
    }

    #[test]
    fn a_topology_of_one_level_gets_the_others() {
        let leaf = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        };
        let mut entries = vec![leaf(1, 0), leaf(0xb, 0), leaf(0x1f, 0), leaf(0x1f, 1)];
        complete_topology(&mut entries);
        let levels = |function| {
            let levels = entries.iter().filter(|entry| entry.function == function);
            levels.map(|entry| entry.index).collect::<Vec<_>>()
        };
        assert_eq!(levels(1), [0]);
        assert_eq!(levels(0xb), [0, 1, 2]);
        assert_eq!(levels(0x1f), [0, 1, 2]);
    }

    #[test]
    fn the_core_level_covers_all_ids() {
        for (count, bits) in [(1, 0), (2, 1), (3, 2), (8, 3), (254, 8)] {
            assert_eq!(placed(0xb, 1, 0, count).eax, bits);
        }
    }
}
