//! Launches as data: what a step does, and the executor that does it on any device.
