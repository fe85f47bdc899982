//! What a model takes of a device's memory when its matrices are packed.

use tilekiln::gguf::{File, TensorInfo};
use tilekiln::kv::{Geometry, KvType, KvTypes};
use tilekiln::model::{Chip, Design, LoadOptions, Precision};
use tilekiln::synth::{CONFIGS, Config, Model, Options};
use tilekiln_dsl::target::TARGETS;
use tilekiln_kernels::matmul::weights::WEIGHTS;

/// What is there beside the tensors: rotation frequencies, tables of pages.
const MORE: f64 = 1.05;

/// The whole of a model and its assistant is kept once: packed, or as it is in the file.
#[test]
fn weights_are_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::new(Config::named("mini").unwrap(), Options::default()).unwrap();
    let files = model.write(folder.path(), &|_| ()).unwrap();
    let [target, assistant] = [&files.target, &files.assistant].map(|path| File::open(path).unwrap());
    let in_file = |file: &File| -> usize {
        let tensors = file.tensors().iter();
        tensors.map(|tensor| file.range(tensor).unwrap().len()).sum()
    };
    let bytes = (in_file(&target) + in_file(&assistant)) as f64;
    for chip in TARGETS.iter().map(|target| Chip::new(target, 132)) {
        for precision in [Precision::Fast, Precision::Exact] {
            let options = LoadOptions {
                precision,
                kv: KvTypes::uniform(KvType::F16),
                geometry: Geometry {
                    slots: 2,
                    context: 256,
                    max_rows: 64,
                    run: 4,
                },
                outputs: 4,
            };
            let design = Design::read(&target, Some(&assistant), options, chip).unwrap();
            let share = design.constant_bytes() as f64 / bytes;
            assert!(
                (0.99..MORE).contains(&share),
                "{} {precision:?}: {share} of the files",
                chip.target.name
            );
        }
    }
}

/// The shapes of published models fill their tiles.
#[test]
fn packed_matrices_are_as_large_as_in_the_file() {
    for config in CONFIGS.iter().filter(|config| config.name != "tiny") {
        let model = Model::new(config, Options::default()).unwrap();
        for tensors in model.tensors() {
            let bytes = |tensor: &TensorInfo| {
                let format = WEIGHTS.iter().find(|weight| Some(weight.name) == tensor.kind.codec())?;
                let packing = format.packing.as_ref()?;
                let (rows, cols) = (tensor.rows(), tensor.dims[0]);
                Some(((packing.bytes)(rows, cols), (format.bytes)(rows, cols)))
            };
            let (mut packed, mut in_file) = (0, 0);
            for (a, b) in tensors.iter().filter_map(bytes) {
                packed += a;
                in_file += b;
            }
            assert!(in_file > 1 << 20, "{}", config.name);
            let share = packed as f64 / in_file as f64;
            assert!((1.0..MORE).contains(&share), "{}: {share}", config.name);
        }
    }
}
