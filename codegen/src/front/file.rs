//! The whole file, from header to kernel. Reads as its table of contents.

use std::collections::BTreeSet;

use tilekiln_dsl::ir::{
    Access, Block, FunctionId, FunctionParameterKind, Kernel, Literal, Location, ParameterKind, Scalar, StmtKind,
};

use super::body::{File, FileTable, Printer};
use super::effects::{Owner, call_effects, is_read_only};
use super::language::{Language, Needs, float_text, word_text};
use super::names::Names;
use super::output::{Output, WIDTH, comment_text};
use super::shared::{SharedPlan, plan};
use crate::{CodegenError, Generated};

/// Writes the file of a kernel.
pub(crate) fn write(kernel: &Kernel, language: &dyn Language) -> Result<Generated, CodegenError> {
    let mut file = open_file(kernel, language);
    if file.names.is_reserved(&kernel.symbol) {
        return Err(CodegenError {
            message: format!(
                "a kernel called `{0}`: generated {1} files need that word; `{0}_kernel` is free",
                kernel.symbol,
                language.extension()
            ),
            at: kernel.at,
        });
    }

    // Callers first: what they call and need is then known.
    let mut kernel_lines = Output::default();
    let mut function_lines = Vec::new();
    // The first round goes by all functions, the second one knows which are called, hence how much shared memory there is.
    let all: Vec<usize> = (0..kernel.functions.len()).collect();
    let mut shared = plan(kernel, &file.effects, &all).unwrap_or(SharedPlan { total: 0, dynamic: 0 });
    for _ in 0..2 {
        let dynamic = shared.dynamic > 0;
        kernel_lines = write_kernel(&mut file, dynamic, shared.total)?;
        function_lines.clear();
        for index in (0..kernel.functions.len()).rev() {
            if file.used_functions.contains(&index) {
                function_lines.push(write_function(&mut file, index)?);
            }
        }
        let used: Vec<usize> = file.used_functions.iter().copied().collect();
        shared = plan(kernel, &file.effects, &used)?;
        if (shared.dynamic > 0) == dynamic {
            break;
        }
    }
    function_lines.reverse();
    let helper_lines = write_helpers(kernel, language, &mut file.needs);
    let table_lines = write_tables(&mut file);
    let constant_lines = write_constants(&mut file);
    // Tables and constants may have asked for more.
    let helper_lines = if file.needs.helpers.is_empty() {
        helper_lines
    } else {
        write_helpers(kernel, language, &mut file.needs)
    };

    let known = |key: &&&str| language.helpers().iter().any(|helper| helper.key == **key);
    if let Some(missing) = file.needs.helpers.iter().find(|key| !known(key)) {
        return Err(CodegenError {
            message: format!(
                "{} asks for `{missing}`, which .{} files cannot express; correct the entry of {} in the table of targets",
                kernel.family,
                language.extension(),
                kernel.target.name
            ),
            at: kernel.at,
        });
    }

    let mut out = Output::default();
    write_header(&mut out, kernel, shared);
    for include in &file.needs.includes {
        out.line(format!("#include <{include}>"), None);
    }
    for line in language.preamble() {
        out.line(line, None);
    }
    for section in [helper_lines, constant_lines, table_lines]
        .into_iter()
        .chain(function_lines)
    {
        if !section.lines.is_empty() {
            out.gap();
            out.append(section);
        }
    }
    out.gap();
    out.append(kernel_lines);

    let (lines, locations): (Vec<String>, Vec<Option<Location>>) = out.lines.into_iter().unzip();
    Ok(Generated {
        symbol: kernel.symbol.clone(),
        file_name: format!("{}.{}", kernel.symbol, language.extension()),
        text: lines.join("\n") + "\n",
        lines: locations,
        target: kernel.target.clone(),
        threads: kernel.threads,
        dynamic_shared_bytes: shared.dynamic,
    })
}

fn open_file<'k>(kernel: &'k Kernel, language: &'k dyn Language) -> File<'k> {
    let helpers = language.helpers().iter().map(|helper| helper.name);
    let mut names = Names::new(
        super::keywords::RESERVED
            .iter()
            .chain(language.keywords())
            .copied()
            .chain(helpers),
    );
    names.take(&kernel.symbol);
    let constant_names = kernel.constants.iter().map(|c| names.declare(&c.name)).collect();
    let function_names = kernel.functions.iter().map(|f| names.declare(&f.name)).collect();
    let mut tables: Vec<FileTable<'_>> = Vec::new();
    let bodies = kernel.functions.iter().map(|f| &f.body).chain([&kernel.body]);
    for table in bodies.flat_map(|body| &body.tables) {
        let known = tables
            .iter()
            .any(|t| t.table.name == table.name && t.table.entries == table.entries);
        if !known {
            let name = names.declare(&table.name);
            tables.push(FileTable { name, table });
        }
    }
    File {
        kernel,
        language,
        names,
        needs: Needs::default(),
        effects: call_effects(kernel),
        constant_names,
        function_names,
        tables,
        used_constants: BTreeSet::new(),
        used_functions: BTreeSet::new(),
        used_tables: BTreeSet::new(),
    }
}

fn write_header(out: &mut Output, kernel: &Kernel, shared: SharedPlan) {
    let spelled = |is_type: bool| -> Vec<String> {
        let chosen = kernel.settings.iter().filter(|s| s.is_type == is_type);
        chosen
            .map(|s| {
                if is_type {
                    s.value.clone()
                } else {
                    format!("{}={}", s.key, s.value)
                }
            })
            .collect()
    };
    let types = spelled(true);
    let title = if types.is_empty() {
        kernel.family.clone()
    } else {
        format!("{}<{}>", kernel.family, types.join(", "))
    };
    let entry = |key: &str, value: &str, remark: &str| {
        let text = if remark.is_empty() {
            format!("// {key:<8} {value}")
        } else {
            format!("// {key:<8} {value:<24} {remark}")
        };
        comment_text(&text)
    };
    let mut paragraphs = doc_paragraphs(&kernel.doc);
    // The first sentence stands beside the title where it fits.
    let beside = paragraphs.first().and_then(|first| {
        let (sentence, rest) = match first.find(". ") {
            Some(end) => first.split_at(end + 1),
            None => (first.as_str(), ""),
        };
        let line = entry("kernel", &title, sentence);
        (title.len() <= 24 && line.len() <= WIDTH).then(|| (line, rest.trim_start().to_string()))
    });
    if let Some((line, rest)) = beside {
        out.line(line, None);
        paragraphs.remove(0);
        if !rest.is_empty() {
            paragraphs.insert(0, rest);
        }
    } else {
        out.line(entry("kernel", &title, ""), None);
    }
    for paragraph in &paragraphs {
        out.line("//", None);
        for line in wrapped(paragraph, 97) {
            out.line(format!("// {line}"), None);
        }
    }
    if !paragraphs.is_empty() {
        out.line("//", None);
    }
    out.line(entry("target", kernel.target.name, kernel.target.summary), None);
    let numbers = spelled(false);
    if !numbers.is_empty() {
        out.line(entry("params", &numbers.join(" "), ""), None);
    }
    if shared.total > 0 {
        let kind = if shared.dynamic > 0 {
            format!("{} of them dynamic", shared.dynamic)
        } else {
            String::new()
        };
        out.line(entry("shared", &format!("{} bytes", shared.total), &kind), None);
    }
    out.line(entry("source", &kernel.at.file.replace('\\', "/"), ""), None);
    let mut remake = format!("tilekiln emit {} --target {}", kernel.family, kernel.target.name);
    let settings: Vec<String> = kernel
        .settings
        .iter()
        .map(|s| format!("{}={}", s.key, s.value))
        .collect();
    if !settings.is_empty() {
        remake += &format!(" --set {}", settings.join(","));
    }
    out.line(entry("remake", &remake, ""), None);
}

/// The paragraphs of a doc comment, each as one line of text; items of lists are paragraphs of their own.
fn doc_paragraphs(doc: &[String]) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in doc.iter().map(|line| comment_text(line)) {
        let line = line.replace("\\[", "[").replace("\\]", "]");
        let is_item = line.starts_with("- ") || line.starts_with("* ");
        match paragraphs.last_mut() {
            Some(paragraph) if is_open && !is_item && !line.is_empty() => *paragraph += &format!(" {line}"),
            _ if !line.is_empty() => paragraphs.push(line.clone()),
            _ => {}
        }
        is_open = !line.is_empty();
    }
    paragraphs
}

/// Words filled into lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => *line += &format!(" {word}"),
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// Definitions of the helpers in use, in the order of the language's table.
fn write_helpers(kernel: &Kernel, language: &dyn Language, needs: &mut Needs) -> Output {
    // Users stand behind what they use, so one pass from the end finds everything.
    for helper in language.helpers().iter().rev() {
        if needs.helpers.contains(helper.key) {
            needs.helpers.extend(helper.needs);
            needs.includes.extend(helper.include);
        }
    }
    let mut out = Output::default();
    for helper in language
        .helpers()
        .iter()
        .filter(|helper| needs.helpers.contains(helper.key))
    {
        let text = helper
            .text
            .trim_matches('\n')
            .replace("{threads}", &kernel.threads.to_string());
        if text.contains('\n') {
            out.gap();
        }
        let many = text.contains('\n');
        for line in text.lines() {
            out.lines.push((line.to_string(), None));
        }
        if many {
            out.gap();
        }
    }
    while out.lines.last().is_some_and(|(line, _)| line.is_empty()) {
        out.lines.pop();
    }
    out
}

fn write_constants(file: &mut File<'_>) -> Output {
    let mut out = Output::default();
    for &index in &file.used_constants.clone() {
        let constant = &file.kernel.constants[index];
        let ty = file.language.scalar(constant.value.scalar(), &mut file.needs);
        let value = plain_literal(file, constant.value);
        out.line(
            format!("constexpr {ty} {} = {value};", file.constant_names[index]),
            None,
        );
    }
    out
}

fn write_tables(file: &mut File<'_>) -> Output {
    let mut out = Output::default();
    for &index in &file.used_tables.clone() {
        let table = file.tables[index].table;
        let scalar = table.entries.first().map_or(Scalar::U32, |entry| entry.scalar());
        let as_float = file.language.table_entry_as_float(scalar);
        let ty = file
            .language
            .scalar(if as_float { Scalar::F32 } else { scalar }, &mut file.needs);
        let entries: Vec<String> = table
            .entries
            .iter()
            .map(|entry| match entry {
                Literal::F16(v) => plain_literal(file, Literal::F32(v.to_f32())),
                entry => plain_literal(file, *entry),
            })
            .collect();
        out.line(
            format!(
                "static __device__ const {ty} {}[{}] = {{",
                file.tables[index].name,
                entries.len()
            ),
            None,
        );
        out.indent();
        let mut line = String::new();
        for entry in entries {
            if line.len() + entry.len() > 96 {
                out.line(line.trim_end(), None);
                line.clear();
            }
            line += &format!("{entry}, ");
        }
        out.line(line.trim_end(), None);
        out.dedent();
        out.line("};", None);
    }
    out
}

/// A literal for an initializer at file scope.
fn plain_literal(file: &mut File<'_>, literal: Literal) -> String {
    match literal {
        Literal::Bool(v) => v.to_string(),
        Literal::I32(i32::MIN) => "-2147483647 - 1".to_string(),
        Literal::I32(v) => v.to_string(),
        Literal::U32(v) => word_text(v, false),
        Literal::U64(v) if v > i32::MAX as u64 => format!("{v:#x}ull"),
        Literal::U64(v) => v.to_string(),
        Literal::F16(v) => plain_literal(file, Literal::F32(v.to_f32())),
        Literal::F32(v) if v.is_nan() => file.needs.helper("not_a_number").to_string(),
        Literal::F32(v) if v.is_infinite() => {
            let name = file.needs.helper("infinity");
            if v < 0.0 { format!("-{name}") } else { name.to_string() }
        }
        Literal::F32(v) => float_text(v),
    }
}

fn write_function(file: &mut File<'_>, index: usize) -> Result<Output, CodegenError> {
    let kernel = file.kernel;
    let function = &kernel.functions[index];
    let name = file.function_names[index].clone();
    let mut printer = Printer::new(file, &function.body, Owner::Function(kernel, FunctionId(index as u32)));
    let at = Some(function.at);
    let mut head = Output::default();
    for line in &function.doc {
        head.comment(if line.is_empty() { " " } else { line }, at);
    }
    let result = match function.result {
        Some(ty) => printer.type_name(ty, function.at)?,
        None => "void",
    };
    let mut parameters = Vec::new();
    for (parameter, name) in function.parameters.iter().zip(printer.parameters.clone()) {
        parameters.push(match parameter.kind {
            FunctionParameterKind::Value(ty) => {
                format!("{} {name}", printer.type_name(ty, function.at)?)
            }
            FunctionParameterKind::GlobalRead(scalar) => {
                format!("const {}* {name}", printer.type_name(scalar.into(), function.at)?)
            }
            FunctionParameterKind::GlobalWrite(scalar) | FunctionParameterKind::Shared(scalar) => {
                format!("{}* {name}", printer.type_name(scalar.into(), function.at)?)
            }
        });
    }
    head.line(
        format!(
            "__device__ __forceinline__ {result} {name}({}) {{",
            parameters.join(", ")
        ),
        at,
    );
    printer.out.indent();
    printer.declare_shared(false)?;
    printer.block(&function.body.block)?;
    printer.out.dedent();
    printer.out.line("}", at);
    head.append(printer.finish());
    Ok(head)
}

fn waits_for_prerequisites(block: &Block) -> bool {
    block.iter().any(|stmt| {
        let inside = stmt.kind.blocks();
        matches!(stmt.kind, StmtKind::WaitForPrerequisites) || inside.into_iter().any(waits_for_prerequisites)
    })
}

fn write_kernel(file: &mut File<'_>, dynamic: bool, shared_bytes: usize) -> Result<Output, CodegenError> {
    let kernel = file.kernel;
    let bounds = file.language.launch_bounds(kernel.threads, kernel.blocks, shared_bytes);
    let mut printer = Printer::new(file, &kernel.body, Owner::Kernel(kernel));
    let at = Some(kernel.at);
    let mut head = Output::default();
    head.line(format!("extern \"C\" __global__ void {bounds}"), at);
    printer.out.indent();
    printer.declare_shared(dynamic)?;
    printer.block(&kernel.body.block)?;
    printer.out.dedent();
    let open = format!("{}(", kernel.symbol);
    let waits = kernel.target.dependent_launch && waits_for_prerequisites(&kernel.body.block);
    let mut rows = Vec::new();
    for (parameter, name) in kernel.parameters.iter().zip(printer.parameters.clone()) {
        let (text, shape) = match &parameter.kind {
            ParameterKind::Scalar(scalar) => (
                format!("{} {name}", printer.type_name((*scalar).into(), parameter.at)?),
                &[][..],
            ),
            ParameterKind::Memory { element, access, shape } => {
                let ty = printer.type_name((*element).into(), parameter.at)?;
                let qualifier = if is_read_only(&parameter.kind) { "const " } else { "" };
                // what an earlier launch still writes must not be read before the wait, as a compiler may do with
                // restricted pointers
                let is_written_only = matches!(access, Access::Write);
                let restrict = if waits && !is_written_only { "" } else { " __restrict__" };
                (format!("{qualifier}{ty}*{restrict} {name}"), &shape[..])
            }
        };
        // settings decide what a kernel reads, not what it takes
        let lead = if printer.out.mentions(&name) {
            ""
        } else {
            "[[maybe_unused]] "
        };
        rows.push((format!("{lead}{text}"), shape, parameter.at));
    }
    let last = rows.len().saturating_sub(1);
    let width = rows
        .iter()
        .enumerate()
        .filter(|(_, row)| !row.1.is_empty())
        .map(|(_, row)| row.0.len() + 1)
        .max()
        .unwrap_or(0);
    if rows.is_empty() {
        head.line(format!("{open})"), at);
    }
    for (number, (text, shape, at)) in rows.iter().enumerate() {
        let lead = if number == 0 {
            open.clone()
        } else {
            " ".repeat(open.len())
        };
        let end = if number == last { ")" } else { "," };
        let mut line = format!("{lead}{text}{end}");
        if !shape.is_empty() {
            let padding = " ".repeat(width.saturating_sub(text.len() + 1));
            line += &format!("{padding}   // {}", comment_text(&format!("[{}]", shape.join(", "))));
        }
        head.lines.push((line, Some(*at)));
    }
    head.line("{", at);
    printer.out.line("}", at);
    head.append(printer.finish());
    Ok(head)
}
