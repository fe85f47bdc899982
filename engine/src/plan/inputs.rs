//! What the host tells a step, gathered so that it goes to the device in one copy.

use super::{BufferId, BufferKind, BufferTable};

/// Inputs up to this size are gathered; larger ones are copied one by one.
const LARGEST: usize = 64 << 10;
/// Inputs begin at multiples of this.
const ALIGNMENT: usize = 256;

/// Where an input is.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    /// Bytes at its beginning that the device does not have yet.
    written: usize,
}

/// Small inputs next to each other, as the device is to have them.
pub(super) struct Inputs {
    bytes: Vec<u8>,
    /// By buffer; none for buffers that are no small inputs.
    places: Vec<Option<Place>>,
}

impl Inputs {
    /// Room for the small inputs of a table.
    pub fn of(table: &BufferTable) -> Self {
        let mut size = 0;
        let places = table.specs().iter().map(|spec| {
            if spec.kind != BufferKind::Input || spec.bytes > LARGEST {
                return None;
            }
            let start = size;
            size += spec.bytes.max(4).next_multiple_of(ALIGNMENT);
            Some(Place { start, written: 0 })
        });
        let places = places.collect();
        Self {
            bytes: vec![0; size],
            places,
        }
    }

    /// Bytes of all of them.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Where an input begins.
    pub fn start(&self, id: BufferId) -> Option<usize> {
        self.places[id.index()].map(|place| place.start)
    }

    /// Notes what an input begins with. Says whether it is one of those gathered here, with room for it.
    pub fn write(&mut self, id: BufferId, data: &[u8], limit: usize) -> bool {
        let Some(place) = &mut self.places[id.index()] else {
            return false;
        };
        if data.len() > limit {
            return false;
        }
        self.bytes[place.start..place.start + data.len()].copy_from_slice(data);
        place.written = place.written.max(data.len());
        true
    }

    /// What the device has to be given: from which byte on, and the bytes. Inputs that follow each other go together,
    /// with what is between them: nobody reads it, because steps read as much of an input as was written.
    pub fn take(&mut self) -> Vec<(usize, &[u8])> {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        let mut follows = false;
        for place in self.places.iter_mut().flatten() {
            let end = place.start + place.written;
            match ranges.last_mut() {
                Some(last) if follows && place.written > 0 => last.1 = end,
                _ if place.written > 0 => ranges.push((place.start, end)),
                _ => {}
            }
            follows = place.written > 0;
            place.written = 0;
        }
        ranges
            .into_iter()
            .map(|(start, end)| (start, &self.bytes[start..end]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_goes_together() {
        let mut table = BufferTable::new(2);
        let mut add = |name: &str, kind, bytes| table.add(name, kind, bytes);
        let [a, b] = ["a", "b"].map(|name| add(name, BufferKind::Input, 8));
        let scratch = add("scratch", BufferKind::Scratch, 8);
        let large = add("large", BufferKind::Input, LARGEST + 4);
        let c = add("c", BufferKind::Input, 8);
        let d = add("d", BufferKind::Input, 8);
        let mut inputs = Inputs::of(&table);
        assert_eq!(inputs.size(), 4 * ALIGNMENT);
        assert_eq!((inputs.start(b), inputs.start(large)), (Some(ALIGNMENT), None));
        assert!(!inputs.write(scratch, &[1], 8) && !inputs.write(large, &[1], 8));
        assert!(!inputs.write(a, &[1; 12], 8), "there is no room");
        for (id, data) in [(a, &[1u8, 2, 3, 4][..]), (b, &[5; 8]), (d, &[6; 4])] {
            assert!(inputs.write(id, data, 8));
        }
        let taken = inputs.take();
        let ranges: Vec<_> = taken.iter().map(|(start, bytes)| (*start, bytes.len())).collect();
        assert_eq!(ranges, [(0, ALIGNMENT + 8), (3 * ALIGNMENT, 4)]);
        assert_eq!((&taken[0].1[..4], taken[0].1[ALIGNMENT]), (&[1u8, 2, 3, 4][..], 5));
        assert!(inputs.take().is_empty());
        assert!(inputs.write(c, &[7; 4], 8));
        assert_eq!(inputs.take().len(), 1);
    }
}
