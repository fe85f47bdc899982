//! Checks of a launch against the recorded kernel, the same for all vendors.

use tilekiln_dsl::ir::{Kernel, ParameterKind, Scalar};

use crate::device::{Argument, Buffer, Launch};
use crate::error::DeviceError;

/// Checks blocks and arguments. `limits` is the most blocks along each axis.
pub(crate) fn check(kernel: &Kernel, launch: &Launch, limits: [u32; 3]) -> Result<(), DeviceError> {
    let fail = |reason: String| DeviceError::BadLaunch {
        kernel: kernel.symbol.clone(),
        reason,
    };
    for (axis, (blocks, limit)) in ["x", "y", "z"].iter().zip(launch.grid.iter().zip(limits)) {
        if *blocks == 0 {
            return Err(fail(format!(
                "no blocks along {axis}; leave the launch out when there is nothing to do"
            )));
        }
        if *blocks > limit {
            return Err(fail(format!(
                "{blocks} blocks along {axis}, the device takes at most {limit}"
            )));
        }
    }
    if launch.arguments.len() != kernel.parameters.len() {
        let names: Vec<&str> = kernel
            .parameters
            .iter()
            .map(|parameter| parameter.name.as_str())
            .collect();
        return Err(fail(format!(
            "{} arguments for {} parameters ({})",
            launch.arguments.len(),
            names.len(),
            names.join(", ")
        )));
    }
    for (at, (argument, parameter)) in launch.arguments.iter().zip(&kernel.parameters).enumerate() {
        if let Some(reason) = mismatch(argument, &parameter.kind) {
            return Err(fail(format!("argument {at} (`{}`): {reason}", parameter.name)));
        }
    }
    Ok(())
}

fn mismatch(argument: &Argument, kind: &ParameterKind) -> Option<String> {
    let given = match argument {
        Argument::Buffer(buffer, offset) => {
            return match kind {
                ParameterKind::Scalar(scalar) => Some(format!("a buffer is given, the kernel takes one {scalar}")),
                ParameterKind::Memory { element, .. } => bad_offset(buffer, *offset, *element),
            };
        }
        Argument::U32(_) => Scalar::U32,
        Argument::I32(_) => Scalar::I32,
        Argument::U64(_) => Scalar::U64,
        Argument::F32(_) => Scalar::F32,
    };
    match kind {
        ParameterKind::Scalar(scalar) if *scalar == given => None,
        ParameterKind::Scalar(scalar) => Some(format!("{given} is given, the kernel takes {scalar}")),
        ParameterKind::Memory { element, .. } => {
            Some(format!("{given} is given, the kernel takes a buffer of {element}"))
        }
    }
}

fn bad_offset(buffer: &Buffer, offset: usize, element: Scalar) -> Option<String> {
    if offset > buffer.bytes {
        return Some(format!("offset {offset} is outside a buffer of {} bytes", buffer.bytes));
    }
    (!offset.is_multiple_of(element.bytes())).then(|| {
        format!(
            "offset {offset} is no multiple of {element}'s {} bytes",
            element.bytes()
        )
    })
}

/// A piece of a buffer: that it is inside.
pub(crate) fn check_range(buffer: &Buffer, offset: usize, bytes: usize) -> Result<(), DeviceError> {
    match offset.checked_add(bytes) {
        Some(end) if end <= buffer.bytes => Ok(()),
        _ => Err(DeviceError::OutOfBuffer {
            bytes,
            offset,
            size: buffer.bytes,
        }),
    }
}

/// Each argument in eight bytes of its own, the way launches take pointers to them. Hosts with these GPUs are
/// little endian, so a shorter scalar is where the driver reads it.
pub(crate) fn pack(
    arguments: &[Argument],
    mut address: impl FnMut(usize, &Buffer) -> Result<u64, DeviceError>,
) -> Result<Vec<u64>, DeviceError> {
    arguments
        .iter()
        .enumerate()
        .map(|(at, argument)| {
            Ok(match argument {
                Argument::Buffer(buffer, offset) => address(at, buffer)? + *offset as u64,
                Argument::U32(value) => u64::from(*value),
                Argument::I32(value) => u64::from(*value as u32),
                Argument::U64(value) => *value,
                Argument::F32(value) => u64::from(value.to_bits()),
            })
        })
        .collect()
}

/// The error for a buffer, a kernel or a graph of another device.
pub(crate) fn foreign(kernel: &str, what: &str) -> DeviceError {
    DeviceError::BadLaunch {
        kernel: kernel.to_string(),
        reason: format!("{what} belongs to another device"),
    }
}

/// The error for what cannot be done while a graph is recorded.
pub(crate) fn while_recording(call: &'static str) -> DeviceError {
    DeviceError::Driver {
        call,
        reason: "a graph is being recorded, which takes launches only; end it first".into(),
    }
}

/// The time between two marks as the drivers give it.
pub(crate) fn milliseconds(call: &'static str, value: f32) -> Result<std::time::Duration, DeviceError> {
    std::time::Duration::try_from_secs_f64(f64::from(value) / 1e3).map_err(|_| DeviceError::Driver {
        call,
        reason: format!("the marks are {value} ms apart: the end is before the start"),
    })
}

#[cfg(test)]
pub(crate) mod testing {
    use tilekiln_dsl::ir::{Access, Body, Kernel, Location, Parameter, ParameterKind, Scalar};
    use tilekiln_dsl::target::Target;

    /// A kernel with these parameters and nothing in it.
    pub(crate) fn kernel(symbol: &str, target: &str, parameters: &[(&str, Option<Scalar>)]) -> Kernel {
        let at = Location {
            file: "kernels/testing.rs",
            line: 7,
            column: 1,
        };
        Kernel {
            symbol: symbol.to_string(),
            family: symbol.to_string(),
            doc: Vec::new(),
            at,
            settings: Vec::new(),
            target: Target::named(target).expect("a target of the table").clone(),
            threads: 64,
            blocks: 0,
            parameters: parameters
                .iter()
                .map(|(name, scalar)| Parameter {
                    name: name.to_string(),
                    kind: match scalar {
                        Some(scalar) => ParameterKind::Scalar(*scalar),
                        None => ParameterKind::Memory {
                            element: Scalar::F32,
                            access: Access::ReadWrite,
                            shape: Vec::new(),
                        },
                    },
                    at,
                })
                .collect(),
            constants: Vec::new(),
            functions: Vec::new(),
            body: Body::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let kernel = testing::kernel(
            "scale_rows",
            "sm_90",
            &[
                ("x", None),
                ("rows", Some(Scalar::U32)),
                ("factor", Some(Scalar::F32)),
                ("seed", Some(Scalar::U64)),
            ],
        );
        let buffer = Buffer {
            bytes: 64,
            handle: Arc::new(()),
        };
        let x = |offset| Argument::Buffer(buffer.clone(), offset);
        let (rows, factor, seed) = (Argument::U32(3), Argument::F32(0.5), Argument::U64(9));
        let good = vec![x(4), rows.clone(), factor.clone(), seed.clone()];
        let cases: &[(&str, [u32; 3], Vec<Argument>)] = &[
            ("", [1, 2, 3], good.clone()),
            ("", [1, 2, 3], vec![x(64), rows.clone(), factor.clone(), seed.clone()]),
            ("no blocks along y", [1, 0, 3], good.clone()),
            (
                "70000 blocks along z, the device takes at most 65535",
                [1, 1, 70000],
                good.clone(),
            ),
            (
                "3 arguments for 4 parameters (x, rows, factor, seed)",
                [1, 1, 1],
                good[..3].to_vec(),
            ),
            (
                "argument 1 (`rows`): i32 is given, the kernel takes u32",
                [1, 1, 1],
                vec![x(0), Argument::I32(3), factor.clone(), seed.clone()],
            ),
            (
                "argument 0 (`x`): f32 is given, the kernel takes a buffer of f32",
                [1, 1, 1],
                vec![factor.clone(), rows.clone(), factor.clone(), seed.clone()],
            ),
            (
                "argument 3 (`seed`): a buffer is given, the kernel takes one u64",
                [1, 1, 1],
                vec![x(0), rows.clone(), factor.clone(), x(0)],
            ),
            (
                "offset 68 is outside a buffer of 64 bytes",
                [1, 1, 1],
                vec![x(68), rows.clone(), factor.clone(), seed.clone()],
            ),
            (
                "offset 6 is no multiple of f32's 4 bytes",
                [1, 1, 1],
                vec![x(6), rows, factor, seed],
            ),
        ];
        for (expected, grid, arguments) in cases {
            let launch = Launch {
                grid: *grid,
                arguments: arguments.clone(),
                dependent: false,
            };
            let result = check(&kernel, &launch, [i32::MAX as u32, 65535, 65535]);
            match result {
                Ok(()) => assert!(expected.is_empty(), "`{expected}` was not noticed"),
                Err(error) => {
                    let shown = error.to_string();
                    assert!(!expected.is_empty(), "{shown}");
                    assert!(shown.starts_with("cannot launch scale_rows: "), "{shown}");
                    assert!(shown.contains(expected), "`{expected}` is not in `{shown}`");
                }
            }
        }
    }

    #[test]
    fn scalars_keep_their_bits() {
        let buffer = Buffer {
            bytes: 64,
            handle: Arc::new(()),
        };
        let arguments = [
            Argument::Buffer(buffer, 12),
            Argument::U32(u32::MAX),
            Argument::I32(-2),
            Argument::U64(u64::MAX - 1),
            Argument::F32(-0.75),
        ];
        let slots = pack(&arguments, |at, _| Ok(1000 + at as u64)).expect("all addresses are known");
        assert_eq!(slots, [1012, 0xffff_ffff, 0xffff_fffe, u64::MAX - 1, 0xbf40_0000]);
    }

    #[test]
    fn ranges_are_checked_without_overflow() {
        let buffer = Buffer {
            bytes: 64,
            handle: Arc::new(()),
        };
        for (offset, bytes, good) in [
            (0, 64, true),
            (64, 0, true),
            (60, 4, true),
            (60, 5, false),
            (usize::MAX, 2, false),
            (65, 0, false),
        ] {
            assert_eq!(check_range(&buffer, offset, bytes).is_ok(), good, "{bytes} at {offset}");
        }
    }
}
