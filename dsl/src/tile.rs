//! Index arithmetic of shared tiles, as functions of the generated text.

use crate::ir::{Location, Setting};
use crate::record::DeviceFunction;
use crate::value::Val;

/// Where element (row, col) of a swizzled tile lies: its 16-byte chunk is moved within the row by xor with the
/// row number modulo 8, so that eight rows of one column fall into different banks.
pub(crate) fn swizzled_index(row: Val<u32>, col: Val<u32>, cols: usize, chunk: usize, at: Location) -> Val<u32> {
    const DOC: &[&str] = &["element (row, col) of a tile whose 16-byte chunks are swizzled by row"];
    let (row, col) = (row.settled(at), col.settled(at));
    let setting = Setting {
        key: "cols".to_string(),
        value: cols.to_string(),
        is_type: false,
    };
    let name = if chunk == 8 {
        "swizzled_index"
    } else {
        "swizzled_word_index"
    };
    let here = Location::caller();
    let mut call = DeviceFunction::new(name, DOC, here, at, &[setting], "");
    call.pass("row", &row);
    call.pass("col", &col);
    if call.begin() {
        use crate::record::FunctionArgument;
        let row: Val<u32> = row.parameter(0, here);
        let col: Val<u32> = col.parameter(1, here);
        call.end(row * cols + ((col / chunk) ^ (row % 8)) * chunk + col % chunk);
    }
    call.finish()
}
