//! What the machine under the nodes has: the capacity that each node reports.
//! The nodes share it; it is not divided between them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Pods that one node takes; also the bound of its address pool.
pub(crate) const PODS_PER_NODE: u8 = 250;

/// CPU, memory, disk and pods, in the units of the Kubernetes API.
pub(crate) fn capacity() -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let disk_ki = nix::sys::statvfs::statvfs("/").map_or(0, |disk| disk.blocks() * disk.fragment_size() / 1024);
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpus.to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", memory_ki()))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{disk_ki}Ki"))),
        ("pods".to_owned(), Quantity(PODS_PER_NODE.to_string())),
    ])
}

fn memory_ki() -> u64 {
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .unwrap_or(1024 * 1024)
}

/// The architecture by the name Kubernetes uses.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The kernel's release, as `uname -r` prints it.
pub(crate) fn kernel_version() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// An id of the running boot, which changes when the machine is restarted.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// A quantity in thousandths of its unit; none if it is not one.
pub(crate) fn millis(quantity: &Quantity) -> Option<u128> {
    let text = quantity.0.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut result = whole.checked_mul(factor)?;
    if !fraction.is_empty() {
        let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        result += fraction.parse::<u128>().ok()?.checked_mul(factor)? / scale;
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("100m", Some(100))]
    #[case("1.5", Some(1500))]
    #[case("256Mi", Some(256 * 1024 * 1024 * 1000))]
    #[case("1G", Some(1_000_000_000_000))]
    #[case("x", None)]
    fn quantities(#[case] text: &str, #[case] expected: Option<u128>) {
        assert_eq!(millis(&Quantity(text.into())), expected);
    }

    #[test]
    fn the_machine_has_something() {
        let capacity = capacity();
        assert!(["cpu", "memory", "pods"].iter().all(|name| millis(&capacity[*name]).is_some_and(|amount| amount > 0)));
    }
}
