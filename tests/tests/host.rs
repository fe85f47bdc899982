//! The proof kernels on the host device, which runs kernels recorded for any target.

use tilekiln_dsl::target::Target;
use tilekiln_runtime::host::HostDevice;
use tilekiln_tests::cases::{self, Extent};

fn check(device: &HostDevice, target: &str, extent: Extent) {
    let target = Target::named(target).expect("the target exists");
    let report = cases::run(device, target, extent);
    report.print();
    report.assert();
}

#[test]
fn kernels_meet_their_references() {
    check(&HostDevice::new(), "host", Extent::Medium);
}

/// Fragments in the lanes of WMMA, no asynchronous copies, no matrix loads: everything about an AMD GPU but its compiler.
#[test]
fn kernels_recorded_for_gfx1150_meet_their_references() {
    check(&HostDevice::new(), "gfx1150", Extent::Medium);
}

#[test]
fn kernels_recorded_for_sm_90_meet_their_references() {
    check(&HostDevice::new(), "sm_90", Extent::Medium);
}

/// A launch on a sanitizing device fails when there is anything to find.
#[test]
fn the_sanitizer_finds_nothing() {
    for target in ["host", "gfx1150"] {
        check(&HostDevice::sanitizing(), target, Extent::Small);
    }
}
