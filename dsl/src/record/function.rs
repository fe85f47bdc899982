//! Device functions: recorded once per kernel and set of comptime arguments, called everywhere else.

use super::{Frame, OpenBlock, drop_unreachable, error, with};
use crate::ir::*;
use crate::value::{DeviceType, Val};

/// What a device function can take.
#[diagnostic::on_unimplemented(
    message = "a device function cannot take a `{Self}`",
    label = "not a device value or memory",
    note = "supported: `Val<T>`, `In<T>`, `Out<T>`, `InOut<T>`, `Shared<T>`, `SharedTile<T>`; mark plain Rust parameters `#[comptime]`, or make the function a #[tile_fn]"
)]
pub trait FunctionArgument: Copy {
    /// How the function declares it.
    fn kind(&self) -> FunctionParameterKind;
    /// What the caller passes.
    fn argument(&self, at: Location) -> Argument;
    /// The handle inside the function.
    fn parameter(&self, index: u32, at: Location) -> Self;
    /// Comptime facts of the handle that make another function of it (a tile's layout).
    fn variant(&self) -> String {
        String::new()
    }
}

/// What a device function can return.
#[diagnostic::on_unimplemented(
    message = "a device function cannot return a `{Self}`",
    label = "not one device value",
    note = "supported: `Val<T>` or nothing; return through shared memory, or make the function a #[tile_fn]"
)]
pub trait FunctionResult: Sized {
    /// The IR type, if there is a result.
    fn ty() -> Option<Type>;
    /// Records the return of the function's last expression.
    fn record_return(self, at: Location);
    /// Records the call.
    fn call(function: FunctionId, arguments: Vec<Argument>, at: Location) -> Self;
    /// What a call yields whose function was rejected.
    fn placeholder(at: Location) -> Self;
}

impl FunctionResult for () {
    fn ty() -> Option<Type> {
        None
    }
    fn record_return(self, _at: Location) {}
    fn call(function: FunctionId, arguments: Vec<Argument>, at: Location) {
        with(|r| r.push(StmtKind::Call { function, arguments }, at));
    }
    fn placeholder(_at: Location) {}
}

impl<T: DeviceType> FunctionResult for Val<T> {
    fn ty() -> Option<Type> {
        Some(T::TYPE)
    }
    fn record_return(self, at: Location) {
        let value = self.id(at);
        with(|r| r.push(StmtKind::Return(Some(value)), at));
    }
    fn call(function: FunctionId, arguments: Vec<Argument>, at: Location) -> Self {
        Val::record(Op::Call { function, arguments }, at)
    }
    fn placeholder(at: Location) -> Self {
        Val::literal(T::ZERO, at)
    }
}

/// Functions that call each other deeper than this are taken for endless.
const DEEPEST: usize = 64;

/// A call of a device function, from its arguments to its result. Driven by `#[device_fn]`.
pub struct FunctionCall {
    name: String,
    key: String,
    doc: &'static [&'static str],
    /// Where the function is written.
    pub declared_at: Location,
    /// Where it is called.
    called_at: Location,
    parameters: Vec<FunctionParameter>,
    arguments: Vec<Argument>,
}

impl FunctionCall {
    /// `settings` are the comptime arguments, `types` the type arguments.
    pub fn new(
        name: &str,
        doc: &'static [&'static str],
        declared_at: Location,
        called_at: Location,
        settings: &[Setting],
        types: &str,
    ) -> Self {
        let suffix: String = settings
            .iter()
            .map(|s| format!("_{}", s.value.replace(|c: char| !c.is_ascii_alphanumeric(), "_")))
            .collect();
        Self {
            key: format!("{name}{suffix}<{types}>@{declared_at}"),
            name: format!("{name}{suffix}"),
            doc,
            declared_at,
            called_at,
            parameters: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// Passes an argument.
    pub fn pass(&mut self, name: &str, argument: &impl FunctionArgument) {
        let kind = argument.kind();
        self.key.push_str(&format!("|{kind:?}{}", argument.variant()));
        self.parameters.push(FunctionParameter {
            name: name.to_string(),
            kind,
        });
        self.arguments.push(argument.argument(self.called_at));
    }

    /// True when the function has to be recorded first.
    pub fn begin(&self) -> bool {
        let (known, recursive, depth) = with(|r| {
            let known = r.function_keys.contains_key(&self.key);
            let recursive = r.frames.iter().any(|f| f.function.as_ref() == Some(&self.key));
            (known, recursive, r.frames.len())
        });
        if known {
            return false;
        }
        if recursive || depth > DEEPEST {
            let problem = match recursive {
                true => format!("device function `{}` calls itself", self.name),
                false => format!(
                    "device functions call each other {DEEPEST} deep, down to `{}`",
                    self.name
                ),
            };
            error(
                self.called_at,
                problem,
                "functions that call others, but never themselves, directly or through others",
                "write the repetition as a loop, or end it at compile time with a `#[comptime]` condition",
            );
            return false;
        }
        with(|r| {
            let id = r.next_frame;
            r.next_frame += 1;
            r.frames.push(Frame {
                function: Some(self.key.clone()),
                ..Frame::new(id)
            });
        });
        true
    }

    /// Ends recording the function.
    pub fn end<R: FunctionResult>(&self, result: R) {
        result.record_return(self.declared_at);
        with(|r| {
            let Some(mut frame) = r.frames.pop() else { return };
            frame.body.block = frame.blocks.pop().map_or_else(Vec::new, |b: OpenBlock| b.statements);
            drop_unreachable(&mut frame.body.block);
            let same = r
                .functions
                .iter()
                .filter(|f| f.name == self.name || f.name.rsplit_once("__").is_some_and(|(n, _)| n == self.name))
                .count();
            let name = match same {
                0 => self.name.clone(),
                n => format!("{}_{}", self.name, n + 1),
            };
            let id = FunctionId(r.functions.len() as u32);
            r.functions.push(Function {
                name,
                doc: self.doc.iter().map(ToString::to_string).collect(),
                parameters: self.parameters.clone(),
                result: R::ty(),
                body: frame.body,
                at: self.declared_at,
            });
            r.function_keys.insert(self.key.clone(), id);
        });
    }

    /// Records the call.
    pub fn finish<R: FunctionResult>(self) -> R {
        let function = with(|r| r.function_keys.get(&self.key).copied());
        match function {
            Some(function) => R::call(function, self.arguments, self.called_at),
            // begin has reported why
            None => R::placeholder(self.called_at),
        }
    }
}
