//! Breadth first through all that can happen: the first state that breaks a promise is one that the
//! shortest story leads to.

use std::collections::{BTreeSet, HashSet};

use super::world::{Action, World};
use super::{Breach, Flaw, Limits};

#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) transitions: usize,
    /// Of them, those from which everything was let come through.
    pub(crate) mended: usize,
    /// Actions of the longest shortest story.
    pub(crate) depth: usize,
    /// What the cluster answered.
    pub(crate) answers: BTreeSet<&'static str>,
    pub(crate) broken: Option<(Breach, Vec<Action>)>,
}

/// How a state was first reached.
struct Step {
    from: usize,
    action: Option<Action>,
}

struct Search {
    steps: Vec<Step>,
    seen: HashSet<u64>,
    mended: HashSet<u64>,
    transitions: usize,
    answers: BTreeSet<&'static str>,
}

/// Every state that can be reached, unless a promise is broken before.
pub(crate) fn explore(limits: Limits, flaw: Flaw) -> Found {
    let mut world = World::new(limits, flaw);
    if limits.begun {
        world = world.begun();
    }
    let mut search = Search {
        steps: vec![Step {
            from: 0,
            action: None,
        }],
        seen: HashSet::from([world.key()]),
        mended: HashSet::new(),
        transitions: 0,
        answers: BTreeSet::new(),
    };
    let mut level = vec![(0, world)];
    let mut depth = 0;
    let broken = loop {
        let next = search.beyond(&level);
        match next {
            Ok(next) if next.is_empty() => break None,
            Ok(next) => level = next,
            Err(broken) => break Some(broken),
        }
        depth += 1;
    };
    Found {
        states: search.seen.len(),
        transitions: search.transitions,
        mended: search.mended.len(),
        depth,
        answers: search.answers,
        broken,
    }
}

impl Search {
    /// All that is reached from a level and was not seen before.
    fn beyond(
        &mut self,
        level: &[(usize, World)],
    ) -> Result<Vec<(usize, World)>, (Breach, Vec<Action>)> {
        let mut next = Vec::new();
        for (at, world) in level {
            if let Err(breach) = self.mends(world) {
                return Err((breach, self.story(*at)));
            }
            for action in world.actions() {
                let after = match world.after(action) {
                    Ok(None) => continue,
                    Ok(Some(after)) => after,
                    Err(breach) => {
                        let mut story = self.story(*at);
                        story.push(action);
                        return Err((breach, story));
                    }
                };
                self.transitions += 1;
                if self.seen.insert(after.key()) {
                    self.answers.extend(after.answers());
                    let action = Some(action);
                    self.steps.push(Step { from: *at, action });
                    next.push((self.steps.len() - 1, after));
                }
            }
        }
        Ok(next)
    }

    /// From here everything comes through, with the processes as they are and with new ones.
    fn mends(&mut self, world: &World) -> Result<(), Breach> {
        for lose_power in [false, true] {
            let mended = world.mended(lose_power);
            if self.mended.insert(mended.lasting_key()) {
                mended.comes_through()?;
            }
        }
        Ok(())
    }

    fn story(&self, mut at: usize) -> Vec<Action> {
        let mut story = Vec::new();
        while let Some(action) = self.steps[at].action {
            story.push(action);
            at = self.steps[at].from;
        }
        story.reverse();
        story
    }
}
