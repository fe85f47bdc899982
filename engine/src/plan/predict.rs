//! How long a step takes on a card, by count of what it moves and computes.
//!
//! A launch takes its latency, then the longer of two: the time to move its bytes at the card's bandwidth, and the time
//! of its arithmetic at the card's rate. A launch with fewer blocks than the card has units gets the share of both that
//! its blocks occupy. This is a roofline: what it leaves out (dependent loads, barriers, conversions, the end of a grid
//! that is no multiple of the units) makes real launches slower, and what stays in the caches between launches makes them
//! faster.

use serde::Serialize;

use super::cards::Card;
use super::{Bytes, Divided, Plan, Size, Stage, Step};

/// A launch with fewer blocks than this share of the units is bound by that.
const FEW_BLOCKS: f64 = 0.5;

/// What a launch waits for most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Bytes.
    Memory,
    /// Arithmetic.
    Compute,
    /// The launch itself.
    Latency,
    /// It has too few blocks to occupy the card.
    Blocks,
}

impl Bound {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Compute => "compute",
            Self::Latency => "latency",
            Self::Blocks => "blocks",
        }
    }
}

/// One launch of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// What it computes: `blk.3.attn_q`.
    pub label: String,
    /// The same for all layers: `attn_q`.
    pub kind: String,
    /// Kernel with its settings.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// What it moves.
    pub bytes: Bytes,
    /// Multiply-adds.
    pub operations: u64,
    /// Predicted seconds.
    pub seconds: f64,
    /// What they go to.
    pub bound: Bound,
    /// Where its division comes from, if it is a product with packed weights: `tuned` or `rule`.
    pub division: Option<&'static str>,
}

/// Launches of a kind: the same kernel with the same grid, in all layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// `attn_q`
    pub kind: String,
    /// Kernel with its settings.
    pub kernel: String,
    /// Blocks of each launch.
    pub grid: [u32; 3],
    /// Launches.
    pub count: usize,
    /// What they move together.
    pub bytes: Bytes,
    /// Multiply-adds, together.
    pub operations: u64,
    /// Predicted seconds, together.
    pub seconds: f64,
    /// What most of them go to.
    pub bound: Bound,
    /// Where their division comes from, if they are products with packed weights: `tuned` or `rule`.
    pub division: Option<&'static str>,
    /// Measured seconds, together.
    pub measured_seconds: Option<f64>,
}

impl Forecast {
    /// One launch on a card.
    pub fn new(plan: &Plan, stage: &Stage, step: &Step, card: &Card) -> Self {
        let size = Size::from(step);
        let grid = stage.grid.map(|count| count.of(&size));
        let bytes = stage.cost.bytes(step);
        let operations = stage.cost.operations(step);
        let (seconds, bound) = time(grid, bytes.all(), operations, stage, card);
        Self {
            label: stage.label.clone(),
            kind: stage.kind().to_owned(),
            kernel: plan.kernels[stage.kernel].to_string(),
            grid,
            bytes,
            operations,
            seconds,
            bound,
            division: stage.divided.as_ref().map(Divided::by),
        }
    }

    /// Whether two launches differ in nothing but their layer.
    fn is_like(&self, group: &Group) -> bool {
        (&self.kind, &self.kernel, self.grid, self.division) == (&group.kind, &group.kernel, group.grid, group.division)
    }
}

fn time(grid: [u32; 3], bytes: u64, operations: u64, stage: &Stage, card: &Card) -> (f64, Bound) {
    let blocks: f64 = grid.into_iter().map(f64::from).product();
    let share = (blocks / card.units.max(1) as f64).min(1.0);
    let memory = bytes as f64 / card.bandwidth / share;
    let compute = operations as f64 / card.rate(stage.cost.unit) / share;
    let launch = if stage.dependent {
        card.dependent_launch
    } else {
        card.launch
    };
    let work = memory.max(compute);
    let bound = if launch >= work {
        Bound::Latency
    } else if share < FEW_BLOCKS {
        Bound::Blocks
    } else if memory >= compute {
        Bound::Memory
    } else {
        Bound::Compute
    };
    (launch + work, bound)
}

/// All launches of a step: its plans in order, each with the part of the step that it does.
pub fn step(parts: &[(&Plan, Step)], card: &Card) -> Vec<Forecast> {
    let launches = parts.iter().flat_map(|(plan, step)| {
        let stages = plan.stages.iter();
        stages.map(move |stage| Forecast::new(plan, stage, step, card))
    });
    launches.collect()
}

/// Puts launches of a kind together, in the order in which the kinds first occur. Also says of each launch which group it
/// is in.
pub fn grouped(launches: &[Forecast]) -> (Vec<Group>, Vec<usize>) {
    let mut groups: Vec<Group> = Vec::new();
    let mut members = Vec::with_capacity(launches.len());
    for launch in launches {
        let known = groups.iter().position(|group| launch.is_like(group));
        let index = known.unwrap_or_else(|| {
            groups.push(Group {
                kind: launch.kind.clone(),
                kernel: launch.kernel.clone(),
                grid: launch.grid,
                count: 0,
                bytes: Bytes::default(),
                operations: 0,
                seconds: 0.0,
                bound: launch.bound,
                division: launch.division,
                measured_seconds: None,
            });
            groups.len() - 1
        });
        let group = &mut groups[index];
        group.count += 1;
        group.bytes += launch.bytes;
        group.operations += launch.operations;
        group.seconds += launch.seconds;
        members.push(index);
    }
    for (index, group) in groups.iter_mut().enumerate() {
        let time_of = |bound: Bound| -> f64 {
            let of_group = launches.iter().zip(&members).filter(|(_, member)| **member == index);
            let bound_so = of_group.filter(|(launch, _)| launch.bound == bound);
            bound_so.map(|(launch, _)| launch.seconds).sum()
        };
        let bounds = [Bound::Memory, Bound::Compute, Bound::Latency, Bound::Blocks];
        let most = bounds.into_iter().max_by(|a, b| time_of(*a).total_cmp(&time_of(*b)));
        group.bound = most.unwrap_or(group.bound);
    }
    (groups, members)
}

/// What a step moves.
pub fn bytes(parts: &[(&Plan, Step)]) -> Bytes {
    let of_part =
        |(plan, step): &(&Plan, Step)| -> Bytes { plan.stages.iter().map(|stage| stage.cost.bytes(step)).sum() };
    parts.iter().map(of_part).sum()
}

/// Multiply-adds of a step.
pub fn operations(parts: &[(&Plan, Step)]) -> u64 {
    let of_part = |(plan, step): &(&Plan, Step)| -> u64 {
        let stages = plan.stages.iter();
        stages.map(|stage| stage.cost.operations(step)).sum()
    };
    parts.iter().map(of_part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Cost, Count, KernelSpec};

    fn card() -> Card {
        Card {
            bandwidth: 100.0,
            units: 10,
            vector: 1000.0,
            launch: 1.0,
            dependent_launch: 0.5,
            ..Card::named("h100").expect("in the table")
        }
    }

    fn plan(stages: &[(&str, u32, Cost)]) -> Plan {
        let mut plan = Plan::new("test");
        for (label, blocks, cost) in stages {
            let grid = [Count::Fixed(*blocks), Count::Fixed(1), Count::Fixed(1)];
            plan.push(*label, KernelSpec::new("gated", &[]), grid, Vec::new(), *cost);
        }
        plan
    }

    const STEP: Step = Step {
        sequences: 1,
        rows: 1,
        depth: 0,
    };

    /// Blocks, bytes, operations, seconds, bound.
    #[test]
    fn the_longest_of_three_bounds() {
        let table = [
            (10, 1000, 0, 11.0, Bound::Memory),
            (20, 1000, 0, 11.0, Bound::Memory),
            (10, 1000, 20_000, 21.0, Bound::Compute),
            (10, 50, 100, 1.5, Bound::Latency),
            (9, 900, 0, 11.0, Bound::Memory),
            (1, 100, 0, 11.0, Bound::Blocks),
            (1, 1, 0, 1.1, Bound::Latency),
        ];
        for (blocks, activation_bytes, operations, seconds, bound) in table {
            let cost = Cost {
                operations,
                ..Cost::activations(activation_bytes)
            };
            let launches = step(&[(&plan(&[("x", blocks, cost)]), STEP)], &card());
            assert!((launches[0].seconds - seconds).abs() < 1e-9, "{launches:?}");
            assert_eq!(launches[0].bound, bound, "{launches:?}");
        }
        let mut dependent = plan(&[("x", 10, Cost::activations(1000))]);
        dependent.stages[0].dependent = true;
        assert!((step(&[(&dependent, STEP)], &card())[0].seconds - 10.5).abs() < 1e-9);
    }

    #[test]
    fn layers_are_put_together() {
        let cost = Cost::activations(1000);
        let plan = plan(&[
            ("embed", 10, cost),
            ("blk.0.up", 10, cost),
            ("blk.0.down", 10, Cost::activations(1)),
            ("blk.1.up", 10, cost),
            // another grid
            ("blk.2.up", 20, cost),
            // no layer's number
            ("blk.x.up", 10, cost),
        ]);
        let launches = step(&[(&plan, STEP)], &card());
        let (groups, members) = grouped(&launches);
        let found: Vec<_> = groups.iter().map(|group| (group.kind.as_str(), group.count)).collect();
        assert_eq!(
            found,
            [("embed", 1), ("up", 2), ("down", 1), ("up", 1), ("blk.x.up", 1)]
        );
        assert_eq!(members, [0, 1, 2, 1, 3, 4]);
        assert_eq!((groups[1].bytes.activations, groups[1].bound), (2000, Bound::Memory));
        assert_eq!(groups[2].bound, Bound::Latency);
        let total: f64 = groups.iter().map(|group| group.seconds).sum();
        let sum: f64 = launches.iter().map(|launch| launch.seconds).sum();
        assert!((total - sum).abs() < 1e-9);
        assert_eq!(bytes(&[(&plan, STEP)]).all(), 5001);
        assert_eq!(operations(&[(&plan, STEP)]), 0);
    }
}
