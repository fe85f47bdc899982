//! Values, variables and register arrays are used only where their definition has been executed.
//!
//! Rust lets an author carry a handle out of the `if` or loop it was made in; the generated text cannot.

use std::collections::{HashMap, HashSet};

use super::{Report, Scope};
use crate::ir::*;

/// What a statement can define.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Thing {
    Value(ValueId),
    Variable(VariableId),
    Registers(RegistersId),
}

struct Walk<'a, 'r> {
    body: &'a Body,
    report: &'r mut Report,
    /// The innermost statement around each definition.
    homes: HashMap<Thing, Home>,
    /// What is defined where the walk is.
    open: HashSet<Thing>,
    around: Vec<(&'static str, Location)>,
}

#[derive(Clone)]
struct Home {
    block: Option<(&'static str, Location)>,
}

pub fn check(scope: &Scope, report: &mut Report) {
    let mut walk = Walk {
        body: scope.body,
        report,
        homes: HashMap::new(),
        open: HashSet::new(),
        around: Vec::new(),
    };
    walk.find_homes(&scope.body.block);
    walk.around.clear();
    walk.block(&scope.body.block, None);
}

fn owner(kind: &StmtKind) -> &'static str {
    match kind {
        StmtKind::If { .. } => "if",
        StmtKind::For { .. } => "for",
        _ => "while",
    }
}

fn defined(kind: &StmtKind) -> Option<Thing> {
    match kind {
        StmtKind::Eval(value) => Some(Thing::Value(*value)),
        StmtKind::Declare { variable, .. } => Some(Thing::Variable(*variable)),
        StmtKind::DeclareRegisters { registers, .. } => Some(Thing::Registers(*registers)),
        _ => None,
    }
}

impl Walk<'_, '_> {
    fn find_homes(&mut self, block: &Block) {
        for stmt in block {
            let block = self.around.last().copied();
            if let Some(thing) = defined(&stmt.kind) {
                self.homes.entry(thing).or_insert(Home { block });
            }
            self.around.push((owner(&stmt.kind), stmt.at));
            if let StmtKind::For { variable, .. } = &stmt.kind {
                let block = self.around.last().copied();
                self.homes.insert(Thing::Variable(*variable), Home { block });
            }
            for inner in stmt.kind.blocks() {
                self.find_homes(inner);
            }
            self.around.pop();
        }
    }

    fn block(&mut self, block: &Block, loop_variable: Option<VariableId>) {
        let mut mine: Vec<Thing> = loop_variable.map(Thing::Variable).into_iter().collect();
        for thing in &mine {
            self.open.insert(*thing);
        }
        self.statements(block, &mut mine);
        for thing in mine {
            self.open.remove(&thing);
        }
    }

    fn statements(&mut self, block: &Block, mine: &mut Vec<Thing>) {
        for stmt in block {
            if !matches!(stmt.kind, StmtKind::While { .. }) {
                self.uses(stmt);
            }
            if let Some(thing) = defined(&stmt.kind) {
                self.open.insert(thing);
                mine.push(thing);
            }
            match &stmt.kind {
                StmtKind::For { variable, body, .. } => self.block(body, Some(*variable)),
                StmtKind::While { test, body, .. } => {
                    // the body sees what the test computed
                    let mut of_test = Vec::new();
                    self.statements(test, &mut of_test);
                    self.uses(stmt);
                    self.block(body, None);
                    for thing in of_test {
                        self.open.remove(&thing);
                    }
                }
                kind => {
                    for inner in kind.blocks() {
                        self.block(inner, None);
                    }
                }
            }
        }
    }

    fn uses(&mut self, stmt: &Stmt) {
        let mut used: Vec<Thing> = stmt.kind.operands(self.body).into_iter().map(Thing::Value).collect();
        match &stmt.kind {
            StmtKind::Assign { variable, .. } => used.push(Thing::Variable(*variable)),
            StmtKind::Eval(value) => {
                if let Op::ReadVariable(variable) = &self.body.value(*value).op {
                    used.push(Thing::Variable(*variable));
                }
            }
            _ => {}
        }
        let arrays = super::registers::references(self.body, &stmt.kind);
        used.extend(arrays.iter().map(|r| Thing::Registers(r.registers)));
        for thing in used {
            if !self.open.contains(&thing) {
                self.escaped(thing, stmt.at);
                // one report per thing: what is made of it would only repeat it
                self.open.insert(thing);
            }
        }
    }

    fn escaped(&mut self, thing: Thing, at: Location) {
        let what = match thing {
            Thing::Value(value) => match self.body.values.get(value.index()).and_then(|v| v.name.as_ref()) {
                Some(name) => format!("value `{name}`"),
                None => "this value".to_string(),
            },
            Thing::Variable(variable) => match self.body.variables.get(variable.index()) {
                Some(variable) => format!("variable `{}`", variable.name),
                None => "this variable".to_string(),
            },
            Thing::Registers(registers) => match self.body.registers.get(registers.index()) {
                Some(registers) => format!("register array `{}`", registers.name),
                None => "this register array".to_string(),
            },
        };
        let home = match self.homes.get(&thing) {
            Some(Home {
                block: Some((word, block)),
            }) => format!("exists only inside the `{word}` at {block}"),
            Some(Home { block: None }) => "is used before it is computed".to_string(),
            None => "was computed in code that is never reached".to_string(),
        };
        self.report.add(
            at,
            format!("{what} {home}"),
            "values in the block that computes them and in the blocks inside of it",
            "declare it with `let mut` before that block and assign it inside, or let the `if` yield the value",
        );
    }
}
