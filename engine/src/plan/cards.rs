//! What cards can do, as data: the one place for bandwidths, rates and latencies, each with its source.
//!
//! Rates are peaks by count of the units, bandwidths what a read of a large buffer reaches. A prediction from them is
//! what a perfect kernel would need. Where a device is at hand, its measured bandwidth and launch time take the place of
//! the table's ([`Card::measured`]).

use tilekiln_dsl::target::Vendor;
use tilekiln_runtime::device::Properties;

use super::Unit;

/// One card.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// As the command line spells it.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// The target whose text it runs.
    pub target: &'static str,
    /// Part of the name that its driver gives it.
    pub device: &'static str,
    /// Bytes a second that a read of a buffer larger than all caches reaches.
    pub bandwidth: f64,
    /// Multiprocessors or compute units.
    pub units: usize,
    /// Multiply-adds a second of floats.
    pub vector: f64,
    /// int8 multiply-adds a second of the four-way dot product.
    pub dot4: f64,
    /// Multiply-adds a second of the matrix units, 16-bit operands and f32 sums.
    pub matrix: f64,
    /// int8 multiply-adds a second of the matrix units.
    pub int8_matrix: f64,
    /// Seconds that each launch of a graph takes beside its work.
    pub launch: f64,
    /// The same for a launch that may start before the one in front of it has ended.
    pub dependent_launch: f64,
    /// Where the numbers come from.
    pub sources: &'static [&'static str],
}

/// A card of the table.
struct Entry {
    name: &'static str,
    summary: &'static str,
    target: &'static str,
    device: &'static str,
    bandwidth: f64,
    units: usize,
    clock: f64,
    /// Multiply-adds per clock and unit: floats, int8 dot products, matrix units with 16-bit operands and with int8.
    per_clock: [usize; 4],
    launch: f64,
    dependent_launch: f64,
    sources: &'static [&'static str],
}

/// What a streaming read reached of the data sheet's 3.35 TB/s on an H100: taken for cards that were not measured.
const REACHABLE: f64 = 3.10 / 3.35;

/// The first card of a target stands for it.
const CARDS: &[Entry] = &[
    Entry {
        name: "h100",
        summary: "NVIDIA H100 SXM, 80 GB HBM3",
        target: "sm_90",
        device: "H100",
        bandwidth: 3.10e12,
        units: 132,
        clock: 1.98e9,
        per_clock: [128, 256, 1893, 3786],
        launch: 0.88e-6,
        dependent_launch: 0.61e-6,
        sources: &[
            "bandwidth: measured, read of 8 GiB in loads of 16 bytes by 132 x 8 blocks of 256 threads",
            "launch: measured, graphs of 300 empty kernels, without and with programmatic dependent launch",
            "rates: NVIDIA H100 data sheet (SXM): 67 TFLOP/s FP32, 989 TFLOP/s FP16 and 1979 TOP/s INT8 dense, at 1.98 GHz; dp4a by the 64 lanes \
             of the integer units. 1893 a clock is that figure of the matrix units at this clock; they have 2048",
        ],
    },
    Entry {
        name: "a100",
        summary: "NVIDIA A100 SXM, 80 GB HBM2e",
        target: "sm_80",
        device: "A100",
        bandwidth: 2.039e12 * REACHABLE,
        units: 108,
        clock: 1.41e9,
        per_clock: [64, 256, 1024, 2048],
        launch: 0.88e-6,
        dependent_launch: 0.88e-6,
        sources: &[
            "bandwidth: NVIDIA A100 data sheet, 2039 GB/s, times what an H100 reaches of its own (3.10 of 3.35 TB/s)",
            "launch: that of the H100; not measured. No dependent launch",
            "rates: NVIDIA A100 data sheet: 19.5 TFLOP/s FP32, 312 TFLOP/s FP16 and 624 TOP/s INT8 dense, at 1.41 GHz; dp4a by the 64 lanes \
             of the integer units",
        ],
    },
    Entry {
        name: "rtx5090",
        summary: "NVIDIA GeForce RTX 5090, 32 GB GDDR7",
        target: "sm_120",
        device: "RTX 5090",
        bandwidth: 1.792e12 * REACHABLE,
        units: 170,
        clock: 2.407e9,
        per_clock: [128, 256, 256, 1024],
        launch: 0.88e-6,
        dependent_launch: 0.61e-6,
        sources: &[
            "bandwidth: NVIDIA data sheet, 1792 GB/s, times what an H100 reaches of its own (3.10 of 3.35 TB/s)",
            "launch: those of the H100; not measured",
            "rates: NVIDIA data sheet: 104.8 TFLOP/s FP32, 209.5 TFLOP/s FP16 dense with f32 sums, 838 TOP/s INT8 dense, at 2.407 GHz; dp4a by \
             64 lanes of the integer units",
        ],
    },
    Entry {
        name: "890m",
        summary: "AMD Radeon 890M (Ryzen AI 9 HX 370), 128-bit LPDDR5X",
        target: "gfx1150",
        device: "890M",
        bandwidth: 105e9,
        units: 16,
        clock: 2.9e9,
        per_clock: [64, 256, 256, 256],
        launch: 3.5e-6,
        dependent_launch: 3.5e-6,
        sources: &[
            "bandwidth: 120 to 128 GB/s by the memory's data sheet, of which 100 to 110 are reached by reports; not measured",
            "launch: 3.5 us per kernel dispatched in batches, reported for another APU of AMD; not measured. No dependent launch",
            "rates: 16 compute units of 64 lanes at 2.9 GHz; dual issue is not counted; one dot4 a lane and clock; WMMA with \
             512 operations a clock and compute unit for 16-bit floats and for int8 (AMD GPUOpen, WMMA on RDNA 3)",
        ],
    },
];

impl Entry {
    fn card(&self) -> Card {
        let rate = |per_clock: usize| self.units as f64 * self.clock * per_clock as f64;
        let [vector, dot4, matrix, int8_matrix] = self.per_clock.map(rate);
        Card {
            name: self.name.to_owned(),
            summary: self.summary.to_owned(),
            target: self.target,
            device: self.device,
            bandwidth: self.bandwidth,
            units: self.units,
            vector,
            dot4,
            matrix,
            int8_matrix,
            launch: self.launch,
            dependent_launch: self.dependent_launch,
            sources: self.sources,
        }
    }
}

impl Card {
    /// The card of that name.
    pub fn named(name: &str) -> Option<Self> {
        CARDS
            .iter()
            .find(|card| card.name.eq_ignore_ascii_case(name))
            .map(Entry::card)
    }

    /// The card that stands for a target.
    pub fn of_target(target: &str) -> Option<Self> {
        CARDS.iter().find(|card| card.target == target).map(Entry::card)
    }

    /// Names of all cards.
    pub fn names() -> Vec<&'static str> {
        CARDS.iter().map(|card| card.name).collect()
    }

    /// A device at hand, with what was measured on it: bytes a second of a large read, seconds of a launch.
    ///
    /// Arithmetic rates are those of the table for its name, else for its target; a CPU has none that would bound
    /// anything.
    pub fn measured(properties: &Properties, bandwidth: f64, launch: f64) -> Self {
        let by_name = CARDS.iter().find(|card| properties.name.contains(card.device));
        let known = by_name
            .map(Entry::card)
            .or_else(|| Self::of_target(properties.target.name));
        let known = known.filter(|_| properties.target.vendor != Vendor::Host);
        let rates = |rate: fn(&Self) -> f64| known.as_ref().map_or(f64::INFINITY, rate);
        Self {
            name: properties.name.clone(),
            summary: format!("{}, bandwidth and launches as measured now", properties.name),
            target: properties.target.name,
            device: known.as_ref().map_or("", |card| card.device),
            bandwidth,
            units: properties.units,
            vector: rates(|card| card.vector),
            dot4: rates(|card| card.dot4),
            matrix: rates(|card| card.matrix),
            int8_matrix: rates(|card| card.int8_matrix),
            launch,
            dependent_launch: launch,
            sources: &[
                "bandwidth and launch: measured in this run",
                "rates: those of the table, for GPUs",
            ],
        }
    }

    /// Multiply-adds a second of one kind of unit.
    pub fn rate(&self, unit: Unit) -> f64 {
        match unit {
            Unit::Vector => self.vector,
            Unit::Dot4 => self.dot4,
            Unit::Matrix => self.matrix,
            Unit::Int8Matrix => self.int8_matrix,
        }
    }
}

#[cfg(test)]
mod tests {
    use tilekiln_dsl::target::{HOST, TARGETS, Target};

    use super::*;

    #[test]
    fn every_target_has_a_card_and_every_card_a_target() {
        for target in TARGETS {
            assert!(Card::of_target(target.name).is_some(), "{}", target.name);
        }
        for entry in CARDS {
            let card = Card::named(entry.name).expect("it is in the table");
            let target = Target::named(card.target).expect("a target of the table");
            assert_eq!(
                card.dependent_launch < card.launch,
                target.dependent_launch,
                "{}",
                card.name
            );
            assert_eq!(card.sources.len(), 3, "{}: bandwidth, launch, rates", card.name);
        }
    }

    /// Card, TFLOP/s of floats and of the matrix units, and their TOP/s of int8 on its data sheet.
    #[test]
    fn rates_are_those_of_the_data_sheets() {
        for (name, sheet) in [
            ("h100", [67.0, 989.0, 1979.0]),
            ("a100", [19.5, 312.0, 624.0]),
            ("rtx5090", [104.8, 209.5, 838.0]),
        ] {
            let card = Card::named(name).expect("it is in the table");
            for (rate, sheet) in [card.vector, card.matrix, card.int8_matrix].into_iter().zip(sheet) {
                let rate = 2.0 * rate / 1e12;
                assert!((rate / sheet - 1.0).abs() < 0.005, "{name}: {rate} and {sheet}");
            }
        }
    }

    #[test]
    fn a_device_at_hand_keeps_what_was_measured() {
        let properties = |name: &str, target: &Target| Properties {
            name: name.to_owned(),
            target: target.clone(),
            units: 7,
            memory_bytes: 0,
            unified_memory: false,
        };
        let sm_90 = Target::named("sm_90").expect("in the table");
        let card = Card::measured(&properties("NVIDIA H100 80GB HBM3", sm_90), 2.9e12, 1e-6);
        assert_eq!((card.bandwidth, card.units, card.launch), (2.9e12, 7, 1e-6));
        assert_eq!(card.vector, Card::named("h100").expect("in the table").vector);
        // a card without an entry: its target's
        let card = Card::measured(&properties("NVIDIA GH200", sm_90), 4e12, 1e-6);
        assert_eq!(card.rate(Unit::Dot4), Card::named("h100").expect("in the table").dot4);
        let card = Card::measured(&properties("host CPU, A100 of them", &HOST), 1e9, 1e-5);
        assert_eq!(card.rate(Unit::Matrix), f64::INFINITY);
    }
}
