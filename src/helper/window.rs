//! How much of a program is under way at a node: parts wait in a queue of their node, and leave it a few at a time.

use std::collections::VecDeque;

/// Parts that wait, by node, and how many are under way there.
#[derive(Debug)]
pub(crate) struct Window {
    nodes: Vec<Waiting>,
    /// Parts of one node that may be under way.
    per_node: usize,
    /// The node whose turn it is.
    turn: usize,
}

#[derive(Clone, Debug, Default)]
struct Waiting {
    parts: VecDeque<u32>,
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
        self.nodes[node].parts.push_back(part);
    }

    /// The next part to be asked, nodes in turn.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        for _ in 0..self.nodes.len() {
            let node = self.turn;
            self.turn = (node + 1) % self.nodes.len();
            let waiting = &mut self.nodes[node];
            if waiting.under_way < self.per_node
                && let Some(part) = waiting.parts.pop_front()
            {
                waiting.under_way += 1;
                return Some(part);
            }
        }
        None
    }

    /// A part of this node has ended.
    pub(crate) fn done(&mut self, node: usize) {
        let under_way = &mut self.nodes[node].under_way;
        *under_way = under_way.saturating_sub(1);
    }

    /// Whether everything that waits may be asked at once.
    pub(crate) fn takes_all(&self) -> bool {
        self.nodes.iter().all(|node| node.parts.len() <= self.per_node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
