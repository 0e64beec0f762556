//! The kernel command line, the IOMMU and its scalable mode.

use super::{Finding, Host};

const ON: &str = "enable the IOMMU in the firmware (VT-d, AMD-Vi), then boot with\n    intel_iommu=on,sm_on\non Intel; on AMD it is on where the firmware has it on";

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let cmdline = host.text("/proc/cmdline").unwrap_or_default();
    let units = host.names("/sys/class/iommu");
    if units.is_empty() {
        let off = cmdline.split_whitespace().find(|word| is_off(word));
        let found = match off {
            Some(word) => format!("no IOMMU is in use: the kernel command line says {word}"),
            None => "no IOMMU is in use: /sys/class/iommu is empty".to_owned(),
        };
        return vec![Finding::problem("iommu", found).mend(ON)];
    }
    let mut all = vec![Finding::ok("iommu", format!("{} IOMMU(s): {}", units.len(), units.join(", ")))];
    let (intel, amd): (Vec<_>, Vec<_>) = (
        units.iter().filter_map(|unit| hex(host, &format!("/sys/class/iommu/{unit}/intel-iommu/ecap"))).collect(),
        units.iter().filter_map(|unit| hex(host, &format!("/sys/class/iommu/{unit}/amd-iommu/features"))).collect(),
    );
    if !intel.is_empty() {
        all.push(scalable_mode(&cmdline, &intel));
    }
    if !amd.is_empty() {
        all.push(amd_pasids(&amd));
    }
    if intel.is_empty() && amd.is_empty() {
        all.push(Finding::note("scalable-mode", "this kind of IOMMU does not tell sysfs whether it knows PASIDs"));
    }
    all
}

fn is_off(word: &str) -> bool {
    let option = word.strip_prefix("intel_iommu=").or_else(|| word.strip_prefix("amd_iommu="));
    option.or_else(|| word.strip_prefix("iommu=")).is_some_and(|values| values.split(',').any(|value| value == "off"))
}

fn hex(host: &Host, path: &str) -> Option<u64> {
    u64::from_str_radix(host.text(path)?.trim_start_matches("0x"), 16).ok()
}

/// Source: Intel VT-d specification, "Extended Capability Register": SMTS bit 43, PASID bit 40, PSS bits 39:35.
fn scalable_mode(cmdline: &str, ecaps: &[u64]) -> Finding {
    let id = "scalable-mode";
    let able = ecaps.iter().filter(|ecap| **ecap >> 43 & 1 == 1 && **ecap >> 40 & 1 == 1).count();
    let bits = ecaps.iter().map(|ecap| (ecap >> 35 & 0x1f) + 1).min().unwrap_or(0);
    let said = |value: &str| {
        let options = cmdline.split_whitespace().filter_map(|word| word.strip_prefix("intel_iommu="));
        options.flat_map(|values| values.split(',')).any(|option| option == value)
    };
    if able < ecaps.len() {
        let found = format!("{} of {} IOMMU(s) have no scalable mode with PASIDs", ecaps.len() - able, ecaps.len());
        return Finding::warning(id, found)
            .mend("devices behind them cannot use PASIDs; nothing on the host changes that");
    }
    let remedy = "boot with\n    intel_iommu=on,sm_on";
    if said("sm_off") {
        return Finding::problem(id, "the command line turns scalable mode off: sm_off").mend(remedy);
    }
    if !said("sm_on") {
        let found = format!(
            "the IOMMUs know PASIDs of {bits} bits; the command line does not say sm_on, so it is the kernel's default that counts"
        );
        return Finding::warning(id, found).mend(remedy);
    }
    Finding::ok(id, format!("scalable mode, PASIDs of {bits} bits"))
}

/// Source: AMD I/O Virtualization Technology specification, "Extended Feature Register": GTSup bit 4, PASmax bits 36:32.
fn amd_pasids(features: &[u64]) -> Finding {
    let able = features.iter().all(|register| register >> 4 & 1 == 1);
    let bits = features.iter().map(|register| (register >> 32 & 0x1f) + 1).min().unwrap_or(0);
    if able {
        Finding::ok("scalable-mode", format!("guest translation, PASIDs of {bits} bits"))
    } else {
        Finding::warning("scalable-mode", "an IOMMU has no guest translation, so devices behind it cannot use PASIDs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::Severity;

    #[test]
    fn scalable_mode_takes_hardware_and_the_command_line() {
        // What QEMU 11.1 shows with pasid-bits=20, and QEMU 7.2 with 1-bit PASIDs.
        let (wide, narrow, none) = (0x8d9a_20f0_0f4e, 0x4900_80f0_0f4a, 0xf0_105a);
        let severity = |cmdline: &str, ecaps: &[u64]| scalable_mode(cmdline, ecaps).severity;
        assert_eq!(severity("intel_iommu=on,sm_on", &[wide]), Severity::Ok);
        assert_eq!(severity("quiet intel_iommu=on", &[wide]), Severity::Warning);
        assert_eq!(severity("intel_iommu=on,sm_off", &[wide]), Severity::Problem);
        assert_eq!(severity("intel_iommu=on,sm_on", &[wide, none]), Severity::Warning);
        assert!(scalable_mode("intel_iommu=sm_on", &[narrow]).found.contains("1 bits"));
        assert!(is_off("iommu=off") && is_off("intel_iommu=on,off") && !is_off("iommu=pt"));
    }
}
