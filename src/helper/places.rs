//! A reply of one element for each that was asked for, in the order asked: elements come in any order, and one that
//! failed is an error in its place.

use crate::merge::Outcome;
use crate::resp;

const NEVER: &str = "ERR preshard: this element was not asked for";

/// Elements, as bytes, on their way to their places.
#[derive(Debug)]
pub(crate) struct Places {
    kept: Vec<u8>,
    /// The range in `kept` of each.
    spans: Vec<(u32, u32)>,
}

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            kept: Vec::new(),
            spans: vec![(0, 0); count],
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.kept.len()
    }

    /// Puts one whole element, an error or another value, into its place.
    pub(crate) fn put(&mut self, place: usize, element: &[u8]) {
        let start = u32::try_from(self.kept.len()).unwrap_or(u32::MAX);
        self.kept.extend_from_slice(element);
        let end = u32::try_from(self.kept.len()).unwrap_or(u32::MAX);
        if let Some(span) = self.spans.get_mut(place) {
            *span = (start, end);
        }
    }

    pub(crate) fn put_int(&mut self, place: usize, number: i64) {
        let mut element = Vec::with_capacity(24);
        resp::write_int(&mut element, number);
        self.put(place, &element);
    }

    /// Puts how an ask ended that gives one element: a reply as it is.
    pub(crate) fn put_outcome(&mut self, place: usize, outcome: Outcome<'_>) {
        match outcome {
            Outcome::Reply(reply) => self.put(place, reply),
            Outcome::NotRun(line) | Outcome::Uncertain(line) => self.put(place, &resp::error_line(line)),
        }
    }

    /// Writes the elements as an array, or the only one alone.
    pub(crate) fn finish(&self, alone: bool, out: &mut Vec<u8>) {
        if !alone {
            resp::write_array_header(out, self.spans.len());
        }
        for &(start, end) in &self.spans {
            let element = self.kept.get(start as usize..end as usize);
            match element.filter(|element| !element.is_empty()) {
                Some(element) => out.extend_from_slice(element),
                None => resp::write_error(out, NEVER),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stand_in_the_order_asked_with_errors_inside() {
        let mut places = Places::new(4);
        places.put_outcome(2, Outcome::Uncertain("UNCERTAIN x"));
        places.put_outcome(0, Outcome::Reply(b":7\r\n"));
        places.put_int(1, -5);
        let mut out = Vec::new();
        places.finish(false, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "*4\r\n:7\r\n:-5\r\n-UNCERTAIN x\r\n-ERR preshard: this element was not asked for\r\n"
        );
    }
}
