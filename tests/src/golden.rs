//! Golden vectors: inputs and outputs of other implementations, kept outside the repository.

use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// Name of the environment variable that says where the shared folder is.
pub const SHARED_VARIABLE: &str = "TILEKILN_SHARED";

/// Why a golden vector could not be had.
#[derive(Debug)]
pub struct GoldenError(String);

impl fmt::Display for GoldenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GoldenError {}

/// The folder with golden vectors: `$TILEKILN_SHARED`, else `../shared` beside the workspace.
///
/// # Errors
/// When there is no such folder.
pub fn shared_folder() -> Result<PathBuf, GoldenError> {
    let folder = match std::env::var_os(SHARED_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
    };
    if folder.join("golden").is_dir() {
        return Ok(folder);
    }
    Err(GoldenError(format!(
        "no golden vectors under {}; set {SHARED_VARIABLE} to the folder that contains `golden`",
        folder.display()
    )))
}

/// One tensor, C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// The values.
    pub values: Vec<T>,
}

impl<T> Tensor<T> {
    /// Slices over the innermost dimension.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[T]> {
        self.values.chunks_exact(self.shape.last().copied().unwrap_or(1).max(1))
    }
}

/// One safetensors file.
pub struct Golden {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Golden {
    /// Opens a file of the shared folder, e.g. `golden/turboquant/turbo3.safetensors`.
    ///
    /// # Errors
    /// When the shared folder or the file is missing, or the file is not safetensors.
    pub fn open(relative: &str) -> Result<Self, GoldenError> {
        let path = shared_folder()?.join(relative);
        let bytes =
            std::fs::read(&path).map_err(|error| GoldenError(format!("cannot read {}: {error}", path.display())))?;
        SafeTensors::deserialize(&bytes)
            .map_err(|error| GoldenError(format!("{} is not safetensors: {error}", path.display())))?;
        Ok(Self { path, bytes })
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = SafeTensors::deserialize(&self.bytes)
            .map(|file| file.names().into_iter().map(str::to_owned).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    /// An f32 tensor.
    ///
    /// # Errors
    /// When there is no tensor of that name and type.
    pub fn f32(&self, name: &str) -> Result<Tensor<f32>, GoldenError> {
        self.tensor(name, Dtype::F32, |bytes| f32::from_le_bytes(*bytes))
    }

    /// A tensor of whole numbers.
    ///
    /// # Errors
    /// When there is no tensor of that name and type.
    pub fn i32(&self, name: &str) -> Result<Tensor<i32>, GoldenError> {
        self.tensor(name, Dtype::I32, |bytes| i32::from_le_bytes(*bytes))
    }

    /// A tensor of bytes.
    ///
    /// # Errors
    /// When there is no tensor of that name and type.
    pub fn bytes(&self, name: &str) -> Result<Tensor<u8>, GoldenError> {
        self.tensor(name, Dtype::U8, |[byte]: &[u8; 1]| *byte)
    }

    fn tensor<T, const N: usize>(
        &self,
        name: &str,
        dtype: Dtype,
        from_bytes: impl Fn(&[u8; N]) -> T,
    ) -> Result<Tensor<T>, GoldenError> {
        let describe = |what: String| GoldenError(format!("{}: tensor `{name}`: {what}", self.path.display()));
        let file = SafeTensors::deserialize(&self.bytes).map_err(|error| describe(error.to_string()))?;
        let view = file.tensor(name).map_err(|error| describe(error.to_string()))?;
        if view.dtype() != dtype {
            return Err(describe(format!("its type is {:?}, not {dtype:?}", view.dtype())));
        }
        let (values, _) = view.data().as_chunks::<N>();
        Ok(Tensor {
            shape: view.shape().to_vec(),
            values: values.iter().map(from_bytes).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::require;

    #[test]
    fn a_golden_file_is_read_with_shapes_and_typed_errors() {
        let Some(golden) = require("shared", Golden::open("golden/turboquant/turbo3.safetensors")) else {
            return;
        };
        let input = golden.f32("d256.input").unwrap();
        assert_eq!(input.shape, [30, 256]);
        assert_eq!(input.rows().len(), 30);
        assert_eq!(golden.bytes("d256.bytes").unwrap().shape, [30, 100]);
        assert!(golden.names().contains(&"d64.dequant".to_owned()));
        assert!(golden.bytes("d256.input").unwrap_err().to_string().contains("F32"));
        assert!(golden.f32("d17.input").unwrap_err().to_string().contains("d17.input"));
    }

    #[test]
    fn a_missing_file_is_an_error() {
        assert!(Golden::open("golden/none.safetensors").is_err());
    }
}
