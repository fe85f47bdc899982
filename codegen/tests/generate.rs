//! What generated text looks like.

mod common;

use std::path::Path;

use common::kernels::{everything, matmul, rms_norm};
use common::*;
use tilekiln_codegen::generate;
use tilekiln_dsl::ir::*;
use tilekiln_dsl::target::TARGETS;

fn examples(target: &str) -> Vec<Kernel> {
    vec![rms_norm(target), matmul(target, Scalar::F16), matmul(target, Scalar::BF16), everything(target)]
}

#[test]
fn every_operation_has_a_spelling_on_every_target() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for target in TARGETS {
        for kernel in examples(target.name) {
            let file = generate(&kernel).unwrap_or_else(|e| panic!("{} for {}: {e}", kernel.symbol, target.name));
            assert_eq!(file.text.lines().count(), file.lines.len());
            std::fs::write(folder.join(format!("{}-{}", target.name, file.file_name)), &file.text).unwrap();
        }
    }
}
