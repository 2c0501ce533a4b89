//! What those who watch a run are told of it while it is under way.

use super::Conductor;
use crate::gathering::Gathering;
use crate::performance::Performance;
use tuplelab_domain::run::Phase;
use tuplelab_proto::v1::RunUpdate;

impl Conductor {
    pub(super) fn tell_progress(&self, performance: &Performance) {
        let Some(index) = performance.run.index() else { return };
        let Some((case, _)) = performance.steps.get(index) else { return };
        let Some(schedule) = performance.schedule.cases.get(*case as usize) else { return };
        let steps = performance.gathering.as_ref().map(Gathering::steps).filter(|(_, all)| *all > 0);
        let stepping = performance.run.phase() == Phase::Ramping && steps.is_some();
        let (established, failed) = match &performance.gathering {
            _ if stepping => (steps.map_or(0, |(done, _)| done), 0),
            Some(gathering) => gathering.progress(),
            None => {
                performance.evidence.last().map_or((0, 0), |evidence| (evidence.held(), evidence.failed()))
            }
        };
        self.queue.tell(
            &performance.id,
            RunUpdate {
                run: performance.id.to_string(),
                phase: if stepping { "stepping" } else { performance.run.phase().name() }.into(),
                step: index as u32 + 1,
                steps: performance.steps.len() as u32,
                case: performance
                    .plan
                    .cases
                    .get(*case as usize)
                    .map(|case| case.name.clone())
                    .unwrap_or_default(),
                established,
                target: steps.map_or(schedule.target, |(_, all)| all),
                failed,
                outcome: String::new(),
                why: String::new(),
            },
        );
    }
}
