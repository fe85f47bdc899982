//! Any bytes as a GGUF file: an error, or a file of which everything can be asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tilekiln::gguf::{ErrorKind, File, Value, ValueType, decode};

fuzz_target!(|bytes: &[u8]| {
    let file = match File::parse(bytes) {
        Ok(file) => file,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for field in file.metadata().iter() {
        let _ = (
            field.u32(),
            field.i32(),
            field.u64(),
            field.f32(),
            field.bool(),
            field.str(),
        );
        let _ = (field.u32s(), field.i32s(), field.f32s(), field.bools());
        let _ = (field.u32_per_layer(3), field.f32_per_layer(3));
        if let Ok(strings) = field.strings() {
            assert_eq!(
                strings
                    .iter()
                    .map(<[u8]>::len)
                    .filter(|&size| size <= bytes.len())
                    .count(),
                strings.len()
            );
        }
        if let Value::Array(array) = field.value()
            && array.kind() != ValueType::Array
        {
            assert_eq!(array.values().count(), array.len());
        }
        assert!(file.metadata().get(field.key()).is_some());
    }
    for tensor in file.tensors() {
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        match file.bytes(tensor) {
            Ok(data) => {
                assert_eq!(Some(data.len()), tensor.bytes);
                assert_eq!(tensor.row_bytes().map(|row| row * tensor.rows()), tensor.bytes);
                let mut values = Vec::new();
                if decode(tensor.kind, data, &mut values).is_ok() {
                    assert_eq!(values.len(), tensor.values());
                }
            }
            Err(error) => assert!(matches!(error.kind(), ErrorKind::UnknownType { .. }), "{error}"),
        }
    }
});
