//! The proof kernels on an NVIDIA GPU, compiled by NVRTC. Runs as a binary of its own, too: nothing but the libraries and,
//! through `TILEKILN_SHARED`, the golden vectors are looked for.

use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::Device;
use tilekiln_tests::cases::{self, Extent};
use tilekiln_tests::requirement::require;

#[test]
fn kernels_meet_their_references() {
    let Some(device) = require("cuda", CudaDevice::open(0)) else {
        return;
    };
    let report = cases::run(&device, &device.properties().target.clone(), Extent::Large);
    report.print();
    report.assert();
}
