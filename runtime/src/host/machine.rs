//! Executes a [`Program`] for one block after the other, all lanes in lock step.

use std::sync::Arc;

use tilekiln_dsl::ir::{Access, Location, Scalar};

use super::buffer::HostBuffer;
use super::finding::{Finding, FindingKind};
use super::lanes;
use super::program::*;
use super::sanitizer::Sanitizer;

/// A launch argument, checked against its parameter.
pub(super) enum Bound {
    Scalar([u32; 2]),
    Memory(GlobalMemory),
}

#[derive(Clone)]
pub(super) struct GlobalMemory {
    pub name: String,
    pub buffer: Arc<HostBuffer>,
    /// First byte.
    pub offset: usize,
    /// First byte behind the buffer.
    pub end: usize,
    pub element: Scalar,
    pub access: Access,
}

/// What all blocks of a launch share.
pub(super) struct Context<'l> {
    pub program: &'l Program,
    pub grid: [u32; 3],
    pub arguments: Vec<Bound>,
}

impl Context<'_> {
    pub fn block_of(&self, number: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        [(number % x) as u32, (number / x % y) as u32, (number / x / y) as u32]
    }
}

/// The launch cannot go on: a finding outside sanitizer mode, or the step limit.
pub(super) type Halt = Box<Finding>;
pub(super) type Step<T = ()> = Result<T, Halt>;

#[derive(Default)]
struct Loop {
    left: Option<Vec<u32>>,
    continued: Option<Vec<u32>>,
}

/// Planes, masks and shared memory of the block being executed.
pub(super) struct Machine {
    pub lanes: usize,
    pub planes: Vec<Vec<u32>>,
    /// All ones where a lane is active.
    pub active: Vec<u32>,
    pub count: usize,
    pub shared: Vec<Vec<u32>>,
    pub block: [u32; 3],
    pub sanitizer: Option<Box<Sanitizer>>,
    /// Scratch of memory accesses.
    pub index: Vec<u32>,
    pub addresses: Vec<usize>,
    pub live: Vec<u32>,
    /// Scratch of reductions.
    pub partner: Vec<u32>,
    loops: Vec<Loop>,
    pool: Vec<Vec<u32>>,
}

impl Machine {
    pub fn new(program: &Program, sanitizer: Option<Box<Sanitizer>>) -> Self {
        let lanes = program.lanes;
        let mut planes: Vec<Vec<u32>> = program
            .uniform
            .iter()
            .map(|uniform| vec![0; if *uniform { 1 } else { lanes }])
            .collect();
        for (slot, word) in &program.literals {
            planes[*slot as usize].fill(*word);
        }
        let coordinate = |plane: &mut Vec<u32>, f: fn(u32) -> u32| {
            for (lane, word) in plane.iter_mut().enumerate() {
                *word = f(lane as u32);
            }
        };
        if let Some(slot) = program.thread_index {
            coordinate(&mut planes[slot as usize], |lane| lane);
        }
        if let Some(slot) = program.lane_index {
            coordinate(&mut planes[slot as usize], |lane| lane % 32);
        }
        if let Some(slot) = program.warp_index {
            coordinate(&mut planes[slot as usize], |lane| lane / 32);
        }
        Self {
            lanes,
            planes,
            active: vec![u32::MAX; lanes],
            count: lanes,
            shared: program
                .shared
                .iter()
                .map(|array| vec![0; (array.len * array.element.bytes()).div_ceil(16) * 4])
                .collect(),
            block: [0; 3],
            sanitizer,
            index: vec![0; lanes],
            addresses: vec![0; lanes],
            live: vec![0; lanes],
            partner: vec![0; lanes],
            loops: Vec::new(),
            pool: Vec::new(),
        }
    }

    /// Sets what is the same in all blocks of a launch.
    pub fn enter_launch(&mut self, context: &Context) {
        for (parameter, slots) in &context.program.scalars {
            if let Some(Bound::Scalar(words)) = context.arguments.get(*parameter as usize) {
                for (slot, word) in slots.iter().zip(words) {
                    self.planes[*slot as usize].fill(*word);
                }
            }
        }
        for (slot, size) in context.program.grid_size.iter().zip(context.grid) {
            if let Some(slot) = slot {
                self.planes[*slot as usize].fill(size);
            }
        }
    }

    pub fn run_block(&mut self, context: &Context, number: u64) -> Step {
        self.block = context.block_of(number);
        for (slot, index) in context.program.block_index.iter().zip(self.block) {
            if let Some(slot) = slot {
                self.planes[*slot as usize].fill(index);
            }
        }
        self.active.fill(u32::MAX);
        self.count = self.lanes;
        while let Some(unfinished) = self.loops.pop() {
            self.pool
                .extend([unfinished.left, unfinished.continued].into_iter().flatten());
        }
        if let Some(sanitizer) = &mut self.sanitizer {
            sanitizer.enter_block(self.block, number);
        }
        self.run(context, &context.program.code)
    }

    pub fn full(&self) -> bool {
        self.count == self.lanes
    }

    pub fn first_active(&self) -> usize {
        self.active.iter().position(|mask| *mask != 0).unwrap_or(0)
    }

    /// Notes a finding and goes on, or stops the launch where nobody collects findings.
    pub fn report(
        &mut self,
        kind: FindingKind,
        at: Location,
        lane: usize,
        make: impl FnOnce(Finding) -> Finding,
    ) -> Step {
        let block = self.block;
        let make = || make(Finding::new(kind, at, block, lane));
        match &mut self.sanitizer {
            Some(sanitizer) => {
                sanitizer.findings.add(kind, at, None, make);
                Ok(())
            }
            None => Err(Box::new(make())),
        }
    }

    // Masks

    fn take_mask(&mut self) -> Vec<u32> {
        self.pool.pop().unwrap_or_else(|| vec![0; self.lanes])
    }

    fn copy_of_active(&mut self) -> Vec<u32> {
        let mut mask = self.take_mask();
        mask.copy_from_slice(&self.active);
        mask
    }

    fn set_active(&mut self, mask: Vec<u32>) {
        let old = std::mem::replace(&mut self.active, mask);
        self.pool.push(old);
        self.recount();
    }

    fn recount(&mut self) {
        self.count = self.active.iter().map(|mask| (mask & 1) as usize).sum();
    }

    fn activate(&mut self, mask: Vec<u32>) {
        for (active, mask) in self.active.iter_mut().zip(&mask) {
            *active |= mask;
        }
        self.pool.push(mask);
        self.recount();
    }

    /// Adds the active lanes to a set and switches them off.
    fn park(&mut self, set: fn(&mut Loop) -> &mut Option<Vec<u32>>) {
        if let Some(mut innermost) = self.loops.pop() {
            match set(&mut innermost) {
                Some(parked) => {
                    for (parked, active) in parked.iter_mut().zip(&self.active) {
                        *parked |= active;
                    }
                }
                none => *none = Some(self.copy_of_active()),
            }
            self.loops.push(innermost);
        }
        self.active.fill(0);
        self.count = 0;
    }

    // Instructions

    fn run(&mut self, context: &Context, code: &[Node]) -> Step {
        for node in code {
            if let Some(sanitizer) = &mut self.sanitizer {
                sanitizer.operations += self.count as u64;
                sanitizer.steps += 1;
            }
            match &node.op {
                Instr::Map1 { f, d, a } => {
                    let mut out = std::mem::take(&mut self.planes[*d as usize]);
                    lanes::map1(*f, &mut out, &self.planes[*a as usize]);
                    self.planes[*d as usize] = out;
                }
                Instr::Map2 { f, d, a, b } => {
                    let mut out = std::mem::take(&mut self.planes[*d as usize]);
                    lanes::map2(*f, &mut out, &self.planes[*a as usize], &self.planes[*b as usize]);
                    self.planes[*d as usize] = out;
                }
                Instr::Map3 { f, d, a, b, c } => {
                    let mut out = std::mem::take(&mut self.planes[*d as usize]);
                    let [a, b, c] = [a, b, c].map(|slot| &self.planes[*slot as usize][..]);
                    lanes::map3(*f, &mut out, a, b, c);
                    self.planes[*d as usize] = out;
                }
                Instr::If { .. }
                | Instr::For { .. }
                | Instr::While { .. }
                | Instr::Call { .. }
                | Instr::Break
                | Instr::Continue
                | Instr::Return => {
                    self.control(context, node)?;
                    if self.count == 0 {
                        return Ok(());
                    }
                }
                _ => self.other(context, node)?,
            }
        }
        Ok(())
    }

    fn control(&mut self, context: &Context, node: &Node) -> Step {
        match &node.op {
            Instr::If {
                condition,
                then,
                otherwise,
            } => self.branch(context, *condition, then, otherwise),
            Instr::For { .. } | Instr::While { .. } => {
                self.loops.push(Loop::default());
                let result = match &node.op {
                    Instr::While { test, condition, body } => self.run_while(context, node.at, test, *condition, body),
                    _ => self.run_for(context, node),
                };
                if let Some(finished) = self.loops.pop() {
                    if let Some(left) = finished.left {
                        self.activate(left);
                    }
                    self.pool.extend(finished.continued);
                }
                result
            }
            Instr::Call { body } => {
                let callers = self.copy_of_active();
                // Break and continue of the callee cannot reach the caller's loops: it has its own.
                let result = self.run(context, body);
                self.set_active(callers);
                result
            }
            Instr::Break => {
                self.park(|it| &mut it.left);
                Ok(())
            }
            Instr::Continue => {
                self.park(|it| &mut it.continued);
                Ok(())
            }
            _ => {
                self.active.fill(0);
                self.count = 0;
                Ok(())
            }
        }
    }

    fn branch(&mut self, context: &Context, condition: Slot, then: &[Node], otherwise: &[Node]) -> Step {
        let condition = &self.planes[condition as usize];
        if let [same] = condition[..] {
            return self.run(context, if same != 0 { then } else { otherwise });
        }
        let yes: usize = condition
            .iter()
            .zip(&self.active)
            .map(|(c, mask)| (c & mask) as usize)
            .sum();
        if yes == self.count {
            return self.run(context, then);
        }
        if yes == 0 {
            return self.run(context, otherwise);
        }
        let mut others = self.pool.pop().unwrap_or_else(|| vec![0; self.lanes]);
        for ((active, other), c) in self.active.iter_mut().zip(&mut others).zip(condition) {
            let mask = 0u32.wrapping_sub(*c);
            *other = *active & !mask;
            *active &= mask;
        }
        self.count = yes;
        self.run(context, then)?;
        if otherwise.is_empty() {
            self.activate(others);
            return Ok(());
        }
        let done = std::mem::replace(&mut self.active, others);
        self.recount();
        self.run(context, otherwise)?;
        self.activate(done);
        Ok(())
    }

    /// Leaves the loop with the lanes whose condition is false; true when nobody stays.
    fn leave(&mut self, condition: impl Fn(usize) -> bool, same: bool) -> bool {
        if same {
            return !condition(0);
        }
        let stay = (0..self.lanes)
            .filter(|lane| self.active[*lane] != 0 && condition(*lane))
            .count();
        if stay == self.count {
            return false;
        }
        if stay == 0 {
            return true;
        }
        let mut staying = self.take_mask();
        for (lane, (staying, active)) in staying.iter_mut().zip(&mut self.active).enumerate() {
            let keep = if condition(lane) { *active } else { 0 };
            *active &= !keep;
            *staying = keep;
        }
        self.park(|it| &mut it.left);
        self.set_active(staying);
        false
    }

    fn end_round(&mut self, at: Location) -> Step {
        if let Some(continued) = self.loops.last_mut().and_then(|innermost| innermost.continued.take()) {
            self.activate(continued);
        }
        if let Some(sanitizer) = &mut self.sanitizer
            && sanitizer.steps > sanitizer.step_limit
        {
            let limit = sanitizer.step_limit;
            let lane = self.first_active();
            let finding = Finding::new(FindingKind::StepLimit, at, self.block, lane).says(
                format!("the loop does not end: the block ran {limit} instructions"),
                "make its condition false for every lane, or raise the step limit",
            );
            return Err(Box::new(finding));
        }
        Ok(())
    }

    fn run_while(&mut self, context: &Context, at: Location, test: &[Node], condition: Slot, body: &[Node]) -> Step {
        loop {
            self.run(context, test)?;
            if self.count == 0 {
                return Ok(());
            }
            let plane = std::mem::take(&mut self.planes[condition as usize]);
            let over = self.leave(|lane| plane.get(lane).or(plane.first()) != Some(&0), plane.len() == 1);
            self.planes[condition as usize] = plane;
            if over {
                return Ok(());
            }
            self.run(context, body)?;
            self.end_round(at)?;
            if self.count == 0 {
                return Ok(());
            }
        }
    }

    fn run_for(&mut self, context: &Context, node: &Node) -> Step {
        let Instr::For {
            variable,
            start,
            end,
            step,
            signed,
            body,
        } = &node.op
        else {
            return Ok(());
        };
        for (d, s) in variable.iter().zip(start) {
            self.declare(*d, *s, false);
        }
        let planes_of = |slots: &[Slot]| [slots[0] as usize, *slots.last().unwrap_or(&slots[0]) as usize];
        let (v, e, s) = (planes_of(variable), planes_of(end), planes_of(step));
        let wide = variable.len() == 2;
        loop {
            let planes = std::mem::take(&mut self.planes);
            let same = [v, e].iter().flatten().all(|slot| planes[*slot].len() == 1);
            let word = |slot: usize, lane: usize| {
                let plane = &planes[slot];
                if let [one] = plane[..] { one } else { plane[lane] }
            };
            let goes_on = |lane: usize| {
                if wide {
                    lanes::wide([&planes[v[0]], &planes[v[1]]], lane)
                        < lanes::wide([&planes[e[0]], &planes[e[1]]], lane)
                } else if *signed {
                    (word(v[0], lane) as i32) < word(e[0], lane) as i32
                } else {
                    word(v[0], lane) < word(e[0], lane)
                }
            };
            let over = self.leave(goes_on, same);
            self.planes = planes;
            if over {
                return Ok(());
            }
            self.run(context, body)?;
            self.end_round(node.at)?;
            if self.count == 0 {
                return Ok(());
            }
            let mut low = std::mem::take(&mut self.planes[v[0]]);
            if wide {
                let mut high = std::mem::take(&mut self.planes[v[1]]);
                for (lane, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
                    let now = u64::from(*low) | (u64::from(*high) << 32);
                    let next = now.wrapping_add(lanes::wide([&self.planes[s[0]], &self.planes[s[1]]], lane));
                    (*low, *high) = (next as u32, (next >> 32) as u32);
                }
                self.planes[v[1]] = high;
            } else {
                match self.planes[s[0]][..] {
                    [step] => low.iter_mut().for_each(|word| *word = word.wrapping_add(step)),
                    ref steps => low
                        .iter_mut()
                        .zip(steps)
                        .for_each(|(word, step)| *word = word.wrapping_add(*step)),
                }
            }
            self.planes[v[0]] = low;
        }
    }

    /// Copies a plane to another, all lanes.
    pub fn declare(&mut self, d: Slot, s: Slot, take: bool) {
        let (d, s) = (d as usize, s as usize);
        if take {
            self.planes.swap(d, s);
            return;
        }
        let mut out = std::mem::take(&mut self.planes[d]);
        match self.planes[s][..] {
            [one] => out.fill(one),
            ref source => out.copy_from_slice(source),
        }
        self.planes[d] = out;
    }

    /// Copies a plane to another where lanes are active.
    pub fn assign(&mut self, d: Slot, s: Slot, take: bool) {
        if self.full() || self.planes[d as usize].len() == 1 {
            self.declare(d, s, take);
            return;
        }
        let mut out = std::mem::take(&mut self.planes[d as usize]);
        match self.planes[s as usize][..] {
            [one] => {
                for (d, mask) in out.iter_mut().zip(&self.active) {
                    *d = (*d & !mask) | (one & mask);
                }
            }
            ref source => {
                for ((d, s), mask) in out.iter_mut().zip(source).zip(&self.active) {
                    *d = (*d & !mask) | (s & mask);
                }
            }
        }
        self.planes[d as usize] = out;
    }

    fn other(&mut self, context: &Context, node: &Node) -> Step {
        let at = node.at;
        match &node.op {
            Instr::Declare { d, s, take } => self.declare(*d, *s, *take),
            Instr::Assign { d, s, take } => self.assign(*d, *s, *take),
            Instr::Load { d, place } => self.load(context, d, place, at)?,
            Instr::Store { s, place } => self.store(context, s, place, at)?,
            Instr::ReadRegister { d, from } => self.read_register(context, d, from, at)?,
            Instr::WriteRegister { to, s, take } => self.write_register(context, to, s, *take, at)?,
            Instr::FillRegisters { array, fill } => self.fill_registers(context, *array, *fill),
            Instr::Lookup { d, table, index } => self.lookup(context, d, *table, *index, at)?,
            Instr::Shuffle { d, s, by } => self.shuffle(*d, *s, by, at)?,
            Instr::WarpReduce {
                d,
                s,
                op,
                scalar,
                width,
            } => self.reduce(*d, *s, *op, *scalar, *width, at)?,
            Instr::Ballot { d, s } => self.ballot(*d, *s, at)?,
            Instr::Mma {
                accumulator,
                a,
                b,
                element,
            } => self.mma(context, accumulator, a, b, *element, at)?,
            Instr::Multiply {
                accumulator,
                a,
                b,
                element,
            } => self.multiply(context, accumulator, a, b, *element, at)?,
            Instr::BulkCopy {
                to,
                from,
                bytes,
                barrier,
            } => self.bulk_copy(context, to, from, *bytes, barrier, at)?,
            Instr::WaitForCopy { barrier, parity } => self.wait_for_copy(context, barrier, *parity, at)?,
            Instr::LoadMatrix { to, from, transposed } => self.load_matrix(context, to, from, *transposed, at)?,
            Instr::AsyncCopy { to, from } => self.async_copy(context, to, from, at)?,
            Instr::AsyncCommit => {
                if let Some(sanitizer) = &mut self.sanitizer {
                    sanitizer.commit(&self.active);
                }
            }
            Instr::AsyncWait { pending } => {
                if let Some(sanitizer) = &mut self.sanitizer {
                    sanitizer.wait(&self.active, *pending as usize);
                }
            }
            Instr::Barrier => {
                self.whole_block(at)?;
                if let Some(sanitizer) = &mut self.sanitizer {
                    sanitizer.barrier();
                }
            }
            Instr::GroupBarrier => {
                self.whole_block(at)?;
                if let Some(sanitizer) = &mut self.sanitizer {
                    sanitizer.group_barrier();
                }
            }
            Instr::WarpBarrier => {
                self.whole_warps("a warp barrier", at)?;
                if let Some(sanitizer) = &mut self.sanitizer {
                    sanitizer.warp_barrier(&self.active);
                }
            }
            Instr::AssumeUniform { s } => self.assume_uniform(s, at)?,
            Instr::CheckDivisor { b, high } => self.check_divisor(*b, *high, at)?,
            Instr::CheckShift { b, width } => self.check_shift(*b, *width, at)?,
            Instr::Wide2 { f, d, a, b } => {
                let mut low = std::mem::take(&mut self.planes[d[0] as usize]);
                let mut high = std::mem::take(&mut self.planes[d[1] as usize]);
                lanes::wide2(*f, [&mut low, &mut high], self.pair(a), self.pair(b));
                self.planes[d[0] as usize] = low;
                self.planes[d[1] as usize] = high;
            }
            Instr::WideCompare { f, d, a, b } => {
                let mut out = std::mem::take(&mut self.planes[*d as usize]);
                lanes::wide_compare(*f, &mut out, self.pair(a), self.pair(b));
                self.planes[*d as usize] = out;
            }
            Instr::WideToF32 { d, a } => {
                let mut out = std::mem::take(&mut self.planes[*d as usize]);
                for (lane, out) in out.iter_mut().enumerate() {
                    *out = (lanes::wide(self.pair(a), lane) as f32).to_bits();
                }
                self.planes[*d as usize] = out;
            }
            Instr::F32ToWide { d, a } => {
                let mut low = std::mem::take(&mut self.planes[d[0] as usize]);
                let mut high = std::mem::take(&mut self.planes[d[1] as usize]);
                let source = &self.planes[*a as usize];
                for (lane, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
                    let word = if let [one] = source[..] { one } else { source[lane] };
                    let whole = f32::from_bits(word) as u64;
                    (*low, *high) = (whole as u32, (whole >> 32) as u32);
                }
                self.planes[d[0] as usize] = low;
                self.planes[d[1] as usize] = high;
            }
            // Control flow and the common maps are handled by `run`.
            _ => {}
        }
        Ok(())
    }

    fn pair(&self, slots: &[Slot; 2]) -> [&[u32]; 2] {
        slots.map(|slot| &self.planes[slot as usize][..])
    }

    fn assume_uniform(&mut self, s: &[Slot], at: Location) -> Step {
        if self.sanitizer.is_none() {
            return Ok(());
        }
        let first = self.first_active();
        for s in s {
            let plane = &self.planes[*s as usize];
            if plane.len() == 1 {
                continue;
            }
            let word = plane[first];
            let other = (0..self.lanes).find(|lane| self.active[*lane] != 0 && plane[*lane] != word);
            if let Some(lane) = other {
                let found = plane[lane];
                self.report(FindingKind::NotUniform, at, lane, |it| {
                    it.says(
                        format!(
                            "the value differs between lanes: {word:#x} in lane {first}, {found:#x} in lane {lane}"
                        ),
                        "promise uniformity only of values computed from block indices, sizes and other uniform values",
                    )
                })?;
            }
        }
        Ok(())
    }

    fn check_divisor(&mut self, b: Slot, high: Option<Slot>, at: Location) -> Step {
        let low = &self.planes[b as usize];
        let zero = |lane: usize| {
            let word = |plane: &Vec<u32>| {
                if plane.len() == 1 { plane[0] } else { plane[lane] }
            };
            word(low) == 0 && high.is_none_or(|high| word(&self.planes[high as usize]) == 0)
        };
        let found = (0..self.lanes).find(|lane| self.active[*lane] != 0 && zero(*lane));
        match found {
            Some(lane) => self.report(FindingKind::DivisionByZero, at, lane, |it| {
                it.says(
                    "integer division by zero",
                    "keep the divisor from being 0, or divide only in lanes where it is not",
                )
            }),
            None => Ok(()),
        }
    }

    fn check_shift(&mut self, b: Slot, width: u32, at: Location) -> Step {
        let plane = &self.planes[b as usize];
        let amount = |lane: usize| {
            if plane.len() == 1 { plane[0] } else { plane[lane] }
        };
        let found = (0..self.lanes).find(|lane| self.active[*lane] != 0 && amount(*lane) >= width);
        match found {
            Some(lane) => {
                let amount = amount(lane);
                self.report(FindingKind::ShiftTooWide, at, lane, |it| {
                    it.says(
                        format!("a {width}-bit value is shifted by {amount} bits"),
                        format!("keep the amount below {width}; targets differ in what they do beyond"),
                    )
                })
            }
            None => Ok(()),
        }
    }

    /// A barrier is reached by all lanes.
    fn whole_block(&mut self, at: Location) -> Step {
        if self.sanitizer.is_some() && !self.full() {
            let (count, lanes) = (self.count, self.lanes);
            let lane = self.active.iter().position(|mask| *mask == 0).unwrap_or(0);
            self.report(FindingKind::DivergentBarrier, at, lane, |it| {
                it.says(
                    format!("a barrier is reached by {count} of {lanes} lanes; lane {lane} is not among them"),
                    "move the barrier out of the branch, and let no lane return or leave the loop before it",
                )
            })?;
        }
        Ok(())
    }
}
