//! Names that are nobody's business outside of the language: no message may mention one.

/// Helper types and generated variables of the attribute macros and of the recorder.
pub const INTERNAL_NAMES: &[&str] = &[
    "Binding",
    "Comparison",
    "ComptimeBranch",
    "ComptimeIf",
    "DeviceBranch",
    "DeviceLoop",
    "FunctionCall",
    "Handle",
    "LogicResult",
    "Logic",
    "LoopMark",
    "PhantomData",
    "Place",
    "PlainBinding",
    "PlainComparison",
    "PlainPlace",
    "Recorder",
    "RegistersId",
    "SharedId",
    "ValueId",
    "VariableId",
    "WhileCondition",
    "WhileScope",
    "__",
];

/// Fails if a message names one of them as a word.
pub fn assert_absent(case: &str, message: &str) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for name in INTERNAL_NAMES {
        let generated = *name == "__" && message.contains("__");
        let named = message.split(|c| !is_part(c)).any(|word| word == *name);
        assert!(!generated && !named, "{case}: a message names `{name}`:\n{message}");
    }
}
