//! What lowering has to know about a body before it starts: which values agree in all lanes, and how long
//! each value lives.

use tilekiln_dsl::ir::*;

/// Values and variables that hold the same word in all active lanes.
pub(super) struct Uniform {
    pub variables: Vec<bool>,
    values: Vec<bool>,
    /// Divergence region a variable was declared in.
    home: Vec<u32>,
    next_region: u32,
    changed: bool,
}

impl Uniform {
    /// `parameters`: whether value parameter i of the body is uniform.
    pub fn of(body: &Body, parameters: &[bool]) -> Self {
        let mut it = Self {
            variables: vec![true; body.variables.len()],
            values: vec![true; body.values.len()],
            home: vec![0; body.variables.len()],
            next_region: 1,
            changed: true,
        };
        // Optimistic start, only ever lowered: ends after at most values + variables rounds.
        while it.changed {
            it.changed = false;
            it.next_region = 1;
            it.block(body, parameters, &body.block, 0);
        }
        it
    }

    fn value(&self, id: ValueId) -> bool {
        self.values.get(id.index()).copied().unwrap_or(false)
    }

    fn region(&mut self) -> u32 {
        self.next_region += 1;
        self.next_region
    }

    fn lower_value(&mut self, id: ValueId, uniform: bool) {
        if let Some(known) = self.values.get_mut(id.index())
            && *known
            && !uniform
        {
            *known = false;
            self.changed = true;
        }
    }

    fn lower_variable(&mut self, id: VariableId, uniform: bool) {
        if let Some(known) = self.variables.get_mut(id.index())
            && *known
            && !uniform
        {
            *known = false;
            self.changed = true;
        }
    }

    fn block(&mut self, body: &Body, parameters: &[bool], block: &Block, region: u32) {
        for stmt in block {
            match &stmt.kind {
                StmtKind::Eval(id) => {
                    let Some(value) = body.values.get(id.index()) else {
                        continue;
                    };
                    let uniform = match &value.op {
                        Op::Parameter(index) => parameters.get(*index as usize).copied().unwrap_or(false),
                        Op::Builtin(builtin) => {
                            matches!(builtin, Builtin::BlockIndex(_) | Builtin::GridSize(_))
                        }
                        Op::ReadVariable(variable) => self.variables.get(variable.index()).copied().unwrap_or(false),
                        // a promise is checked, never relied on
                        Op::AssumeUniform(value) => self.value(*value),
                        Op::ReadRegister(_)
                        | Op::Shuffle { .. }
                        | Op::WarpReduce { .. }
                        | Op::Ballot(_)
                        | Op::Call { .. } => false,
                        op => op.operands().iter().all(|operand| self.value(*operand)),
                    };
                    self.lower_value(*id, uniform);
                }
                StmtKind::Declare { variable, value } => {
                    if let Some(home) = self.home.get_mut(variable.index()) {
                        *home = region;
                    }
                    self.lower_variable(*variable, self.value(*value));
                }
                StmtKind::Assign { variable, value } => {
                    let at_home = self.home.get(variable.index()) == Some(&region);
                    self.lower_variable(*variable, at_home && self.value(*value));
                }
                StmtKind::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    let uniform = self.value(*condition);
                    for inner in [then, otherwise] {
                        let inner_region = if uniform { region } else { self.region() };
                        self.block(body, parameters, inner, inner_region);
                    }
                }
                StmtKind::For {
                    variable,
                    start,
                    end,
                    step,
                    body: inner,
                    ..
                } => {
                    // Lanes that left the loop never read the variable again, the others count in step.
                    self.lower_variable(*variable, self.value(*start) && self.value(*step));
                    let together = self.value(*start)
                        && self.value(*end)
                        && self.value(*step)
                        && !self.diverging_exit(inner, false, true);
                    let inner_region = if together { region } else { self.region() };
                    self.block(body, parameters, inner, inner_region);
                }
                StmtKind::While {
                    test,
                    condition,
                    body: inner,
                } => {
                    let together = self.value(*condition)
                        && !self.diverging_exit(inner, false, true)
                        && !self.diverging_exit(test, false, true);
                    let inner_region = if together { region } else { self.region() };
                    self.block(body, parameters, test, inner_region);
                    self.block(body, parameters, inner, inner_region);
                }
                _ => {}
            }
        }
    }

    /// Whether some lanes may leave a loop (or a round of it) while others stay.
    fn diverging_exit(&self, block: &Block, diverged: bool, own: bool) -> bool {
        block.iter().any(|stmt| match &stmt.kind {
            StmtKind::Break | StmtKind::Continue => diverged && own,
            StmtKind::Return(_) => diverged,
            StmtKind::If {
                condition,
                then,
                otherwise,
            } => {
                let diverged = diverged || !self.value(*condition);
                self.diverging_exit(then, diverged, own) || self.diverging_exit(otherwise, diverged, own)
            }
            StmtKind::For {
                start, end, step, body, ..
            } => {
                let together = [start, end, step].iter().all(|v| self.value(**v));
                let diverged = diverged || !together || self.diverging_exit(body, false, true);
                self.diverging_exit(body, diverged, false)
            }
            StmtKind::While { test, condition, body } => {
                let diverged = diverged || !self.value(*condition) || self.diverging_exit(body, false, true);
                self.diverging_exit(test, diverged, false) || self.diverging_exit(body, diverged, false)
            }
            _ => false,
        })
    }
}

/// When values die, in positions that lowering counts the same way: one per statement before its nested
/// blocks, one for the condition of a `While` after its test, one at the end of every loop.
pub(super) struct Lifetimes {
    /// Values whose last use is at a position.
    pub expire: Vec<Vec<ValueId>>,
    /// Position of the last use of a value.
    pub last: Vec<u32>,
    /// Positions of assignments per variable.
    pub assigned: Vec<Vec<u32>>,
}

struct Scan<'b> {
    body: &'b Body,
    position: u32,
    loops: Vec<Vec<ValueId>>,
    depth_of: Vec<usize>,
    defined: Vec<bool>,
    last: Vec<u32>,
    assigned: Vec<Vec<u32>>,
}

impl Lifetimes {
    pub fn of(body: &Body) -> Self {
        let mut scan = Scan {
            body,
            position: 0,
            loops: Vec::new(),
            depth_of: vec![0; body.values.len()],
            defined: vec![false; body.values.len()],
            last: vec![0; body.values.len()],
            assigned: vec![Vec::new(); body.variables.len()],
        };
        scan.block(&body.block);
        let mut expire = vec![Vec::new(); scan.position as usize + 1];
        for (index, last) in scan.last.iter().enumerate() {
            if scan.defined[index] {
                expire[*last as usize].push(ValueId(index as u32));
            }
        }
        Self {
            expire,
            last: scan.last,
            assigned: scan.assigned,
        }
    }
}

impl Scan<'_> {
    fn used(&mut self, id: ValueId) {
        let index = id.index();
        if index >= self.last.len() {
            return;
        }
        self.last[index] = self.position;
        if self.depth_of[index] < self.loops.len()
            && let Some(users) = self.loops.last_mut()
        {
            users.push(id);
        }
    }

    fn next(&mut self) {
        self.position += 1;
    }

    fn close_loop(&mut self) {
        // What a round reads from outside must survive to the end of the last round.
        let users = self.loops.pop().unwrap_or_default();
        for id in users {
            let index = id.index();
            self.last[index] = self.position;
            if self.depth_of[index] < self.loops.len()
                && let Some(outer) = self.loops.last_mut()
            {
                outer.push(id);
            }
        }
        self.next();
    }

    fn block(&mut self, block: &Block) {
        for stmt in block {
            let operands = match &stmt.kind {
                StmtKind::While { .. } => Vec::new(),
                StmtKind::Eval(id) if id.index() >= self.body.values.len() => Vec::new(),
                kind => kind.operands(self.body),
            };
            for id in operands {
                self.used(id);
            }
            match &stmt.kind {
                StmtKind::Eval(id) if id.index() < self.last.len() => {
                    self.depth_of[id.index()] = self.loops.len();
                    self.defined[id.index()] = true;
                    self.last[id.index()] = self.position;
                }
                StmtKind::Assign { variable, .. } | StmtKind::Declare { variable, .. } => {
                    if let Some(list) = self.assigned.get_mut(variable.index()) {
                        list.push(self.position);
                    }
                }
                _ => {}
            }
            self.next();
            match &stmt.kind {
                StmtKind::If { then, otherwise, .. } => {
                    self.block(then);
                    self.block(otherwise);
                }
                StmtKind::For { end, step, body, .. } => {
                    self.loops.push(Vec::new());
                    self.block(body);
                    self.used(*end);
                    self.used(*step);
                    self.close_loop();
                }
                StmtKind::While { test, condition, body } => {
                    self.loops.push(Vec::new());
                    self.block(test);
                    self.used(*condition);
                    self.next();
                    self.block(body);
                    self.close_loop();
                }
                _ => {}
            }
        }
    }
}
