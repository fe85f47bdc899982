//! Every registered kernel records for every target.

use tilekiln_dsl::target::{HOST, TARGETS};
use tilekiln_kernels::registry::{KERNELS, Random, Settings};

#[test]
fn every_kernel_records_with_its_defaults() {
    for entry in KERNELS {
        for target in TARGETS.iter().chain([&HOST]) {
            let settings = Settings::parse(entry, []).expect("defaults parse");
            let def = (entry.build)(&settings).expect("defaults build");
            let kernel = def
                .record(target)
                .unwrap_or_else(|e| panic!("{} for {}:\n{e}", entry.name, target.name));
            assert_eq!(kernel.family, entry.name);
            let example = (entry.example)(&settings, &mut Random::new(7)).expect("an example");
            assert_eq!(example.arguments.len(), kernel.parameters.len(), "{}", entry.name);
        }
    }
}
