//! How much of a program is under way at a node: parts wait in a queue of their node, and leave it a few at a time.

use std::collections::VecDeque;

/// Parts that wait, by node, and how much is under way there.
#[derive(Debug)]
pub(crate) struct Window {
    nodes: Vec<Waiting>,
    /// What may be under way at one node: that many parts, or as many smaller ones of them as weigh the same.
    per_node: usize,
    /// The node whose turn it is.
    turn: usize,
}

#[derive(Clone, Debug, Default)]
struct Waiting {
    /// Each with its weight.
    parts: VecDeque<(u32, u32)>,
    /// Their weights together.
    waits: usize,
    under_way: usize,
}

impl Window {
    pub(crate) fn new(nodes: usize, per_node: usize) -> Self {
        Self {
            nodes: vec![Waiting::default(); nodes],
            per_node,
            turn: 0,
        }
    }

    /// Puts a part behind those that wait for its node.
    pub(crate) fn push(&mut self, node: usize, part: u32) {
        self.push_of(node, part, 1);
    }

    /// Puts a part that counts as `weight` behind those that wait for its node.
    pub(crate) fn push_of(&mut self, node: usize, part: u32, weight: u32) {
        let node = &mut self.nodes[node];
        node.parts.push_back((part, weight));
        node.waits += weight as usize;
    }

    /// The next part to be asked, nodes in turn.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        for _ in 0..self.nodes.len() {
            let node = self.turn;
            self.turn = (node + 1) % self.nodes.len();
            let waiting = &mut self.nodes[node];
            let Some(&(part, weight)) = waiting.parts.front() else {
                continue;
            };
            let then = waiting.under_way + weight as usize;
            if waiting.under_way == 0 || then <= self.per_node {
                waiting.parts.pop_front();
                waiting.waits -= weight as usize;
                waiting.under_way = then;
                return Some(part);
            }
        }
        None
    }

    /// A part of this node has ended.
    pub(crate) fn done(&mut self, node: usize) {
        self.done_of(node, 1);
    }

    /// A part of this node that counts as `weight` has ended.
    pub(crate) fn done_of(&mut self, node: usize, weight: u32) {
        let under_way = &mut self.nodes[node].under_way;
        *under_way = under_way.saturating_sub(weight as usize);
    }

    /// Whether everything that waits may be asked at once.
    pub(crate) fn takes_all(&self) -> bool {
        self.nodes.iter().all(|node| node.waits <= self.per_node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_parts_leave_no_room_for_others_and_pass_when_they_are_alone() {
        let mut window = Window::new(1, 10);
        for (part, weight) in [(0, 6), (1, 5), (2, 4), (3, 30)] {
            window.push_of(0, part, weight);
        }
        assert_eq!(
            (window.pop(), window.pop()),
            (Some(0), None),
            "11 would be too much"
        );
        window.done_of(0, 6);
        assert_eq!(
            (window.pop(), window.pop(), window.pop()),
            (Some(1), Some(2), None)
        );
        window.done_of(0, 5);
        assert_eq!(window.pop(), None);
        assert!(!window.takes_all());
        window.done_of(0, 4);
        assert_eq!(window.pop(), Some(3));
        assert!(window.takes_all());
    }

    #[test]
    fn nodes_take_turns_and_none_has_more_than_its_share() {
        let mut window = Window::new(2, 2);
        (0..5).for_each(|part| window.push(0, part));
        (5..7).for_each(|part| window.push(1, part));
        assert!(!window.takes_all());
        let popped: Vec<u32> = std::iter::from_fn(|| window.pop()).collect();
        assert_eq!(popped, [0, 5, 1, 6]);
        window.done(0);
        assert_eq!((window.pop(), window.pop()), (Some(2), None));
        assert!(window.takes_all(), "two wait");
        window.done(0);
        assert_eq!(window.pop(), Some(3));
    }
}
