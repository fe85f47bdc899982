//! Registers, shared memory and spills from what `--ptxas-options=-v` writes into NVRTC's log.

use crate::device::Resources;

/// The costs of one kernel, or `None` when the log does not speak of it.
///
/// ```text
/// ptxas info    : Compiling entry function 'k' for 'sm_90'
/// ptxas info    : Function properties for k
///     16 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
/// ptxas info    : Used 32 registers, used 1 barriers, 16 bytes stack, 1024 bytes smem
/// ```
pub(super) fn resources(log: &str, symbol: &str) -> Option<Resources> {
    let entry = format!("Compiling entry function '{symbol}'");
    let properties = format!("Function properties for {symbol}");
    let mut lines = log.lines().skip_while(|line| !line.contains(&entry)).skip(1).peekable();
    let mut out = Resources::default();
    while let Some(line) = lines.next() {
        if line.contains("Compiling entry function") {
            break;
        }
        if line.trim_end().ends_with(&properties) {
            if let Some(line) = lines.next() {
                out.scratch_bytes = before(line, "bytes stack frame")?;
                out.spills = before(line, "bytes spill stores")? + before(line, "bytes spill loads")?;
            }
        } else if line.contains(": Used ") {
            out.registers = before(line, "registers")?;
            out.shared_bytes = before(line, "bytes smem").unwrap_or(0);
            return Some(out);
        }
    }
    None
}

/// The number in front of a phrase.
fn before(line: &str, phrase: &str) -> Option<u32> {
    let at = line.find(phrase)?;
    line[..at].split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90'
ptxas info    : Function properties for first
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
ptxas info    : Compiling entry function 'second' for 'sm_90'
ptxas info    : Function properties for helper
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for second
    24 bytes stack frame, 1108 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size, 1024 bytes smem, 16 bytes cmem[2]
ptxas info    : Compile time = 3.1 ms
";

    #[test]
    fn each_kernel_its_own_numbers() {
        let first = Resources {
            registers: 10,
            ..Resources::default()
        };
        assert_eq!(resources(LOG, "first"), Some(first));
        let second = Resources {
            registers: 255,
            shared_bytes: 1024,
            spills: 1116,
            scratch_bytes: 24,
        };
        assert_eq!(resources(LOG, "second"), Some(second));
        assert_eq!(resources(LOG, "third"), None);
        assert_eq!(resources(LOG, "helper"), None);
    }

    #[test]
    fn a_cut_log_is_no_number() {
        for end in 0..LOG.len() {
            if let Some(found) = resources(&LOG[..end], "second") {
                assert_eq!((found.registers, found.spills), (255, 1116), "{end} bytes");
            }
        }
    }
}
