//! The reconciler over maps in memory: audits, retries, and whose delay a pass tells.

use std::time::UNIX_EPOCH;

use svclb_common::layout::BackendKey;
use svclb_core::model::{
    Endpoint, Node, Protocol, Service, ServicePort, Slice, SlicePort, Unread, Update,
};
use svclb_core::number::{LineNumber, ServiceId};
use svclb_core::table::{FailingTable, Key, MemoryTable};

use super::parts::delays;
use svclb_dataplane::interface::Remembered;

use super::*;

/// A reconciler over memory that has written one Service.
fn reconciler() -> Reconciler<FailingTable<MemoryTable>> {
    let meta = Meta { index_lines: 8, slots: 8, seed: 7, ..Meta::default() };
    let object = ObjectName::new("default", "hello");
    let service = Service {
        cluster_ips: vec![[10, 96, 0, 1].into()],
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        ..Service::default()
    };
    let updates = vec![Update::Service(object, Some(service)), endpoint(1)];
    let first = Batch { whole: true, unread: Some(Unread::default()), ..Batch::of(updates) };
    let table = FailingTable::new(MemoryTable::new(meta));
    let catalog = Catalog::new(Node::default());
    let mut reconciler =
        Reconciler::over(catalog, table, &meta, Sizing::default(), at_once(), Arc::default())
            .unwrap();
    reconciler.ingest(first);
    assert!(reconciler.pass().failed.is_empty());
    reconciler
}

/// No program runs.
pub(super) fn at_once() -> GracePeriod {
    Box::new(|| Ok(()))
}

/// A dataplane that makes maps in memory.
#[derive(Default)]
struct FakeDataplane {
    begun: Option<Meta>,
    made: usize,
    /// The threads that make maps and load programs are at work.
    is_slow: bool,
    abandoned: usize,
}

impl Dataplane for FakeDataplane {
    type Maps = FailingTable<MemoryTable>;

    fn shared_origins(&self) -> Result<Option<u32>> {
        Ok(None)
    }

    fn begin(&mut self, row: &Meta, _: bool) -> Result<()> {
        self.begun = Some(*row);
        Ok(())
    }

    fn made(&mut self, waits: bool) -> Option<Result<Self::Maps>> {
        if self.is_slow && !waits {
            return None;
        }
        self.made += 1;
        let row = self.begun.take().context("they cannot be made");
        Some(row.map(|row| FailingTable::new(MemoryTable::new(row))))
    }

    fn can_switch(&self) -> bool {
        !self.is_slow
    }

    fn switch(&mut self, _: &mut Self::Maps) -> Result<()> {
        Ok(())
    }

    fn abandon(&mut self) {
        self.abandoned += 1;
    }

    fn grace_period(&self) -> GracePeriod {
        at_once()
    }

    fn begin_marks(&self, _: &mut Self::Maps) -> Result<Option<Remembered>> {
        Ok(None)
    }

    fn finish_marks(&self, _: &mut Self::Maps, _: &[BackendKey]) {}

    fn audit_shares(&mut self) {}

    fn is_whole(&self) -> bool {
        true
    }

    fn prove(&mut self) -> Result<()> {
        Ok(())
    }

    fn look_after(&mut self) -> Result<()> {
        Ok(())
    }
}

/// An agent that starts over full maps, of which the source cannot read the one Service.
fn over_full_maps() -> Reconciler<FailingTable<MemoryTable>> {
    let Reconciler { table, state, .. } = reconciler();
    let catalog = Catalog::new(Node::default());
    let mut reconciler = Reconciler::over(
        catalog,
        table,
        state.meta(),
        Sizing::default(),
        at_once(),
        Arc::default(),
    )
    .unwrap();
    let unread = Unread {
        services: [ObjectName::new("default", "hello")].into(),
        slices: [ObjectName::new("default", "hello")].into(),
        ..Unread::default()
    };
    let many = Batch::of(vec![large()]);
    reconciler.ingest(Batch { whole: true, unread: Some(unread), standing: 1, ..many });
    reconciler.pass();
    reconciler
}

#[tokio::test]
async fn a_rejected_service_moves_into_larger_maps_and_keeps_nobody_from_being_served() {
    let mut reconciler = over_full_maps();
    assert!(reconciler.state.lacking().count() > 0, "one does not fit");
    let mut dataplane = FakeDataplane::default();
    reconciler.make_room(&mut dataplane);
    assert_eq!((dataplane.made, reconciler.state.lacking().count()), (1, 0));
    let hello = ObjectName::new("default", "hello");
    let retained = reconciler.catalog.retained().map(|it| it.object.clone());
    assert_eq!(retained.collect::<Vec<_>>(), std::slice::from_ref(&hello));
    assert!(reconciler.state.is_installed(&hello), "it is in the new maps");
    let dump = reconciler.table.load().unwrap();
    assert_eq!((dump.frontends.len(), dump.backends.len()), (21, 1));
    // The rejected object was removed.
    reconciler.ingest(Batch { unread: Some(Unread::default()), ..Batch::of(Vec::new()) });
    reconciler.pass();
    assert!(!reconciler.state.is_installed(&hello), "no source has it");
    assert_eq!(reconciler.table.load().unwrap().frontends.len(), 20);
}

#[tokio::test]
async fn an_agent_over_full_maps_places_its_probe_though_a_service_is_rejected() {
    let mut reconciler = over_full_maps();
    let mut dataplane = FakeDataplane::default();
    reconciler.proving = true;
    probe::appear().into_iter().for_each(|update| reconciler.catalog.apply(update));
    reconciler.pass();
    reconciler.make_room(&mut dataplane);
    assert!(reconciler.prove(&mut dataplane).unwrap(), "it is ready");
}

/// `default/hello` has one endpoint, at 10.0.0.`last`.
fn endpoint(last: u8) -> Update {
    let object = ObjectName::new("default", "hello");
    let slice = Slice {
        service: object.clone(),
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }].into(),
        endpoints: [([10, 0, 0, last].into(), Endpoint::default())].into_iter().collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    };
    Update::Slice(object, Some(slice))
}

/// A Service that does not fit the maps of [`reconciler`].
fn large() -> Update {
    let ips = (1..20).map(|last| [10, 96, 1, last].into()).collect();
    let ports =
        vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }];
    let own = vec![[10, 96, 0, 2].into()];
    let service = Service { cluster_ips: own, external_ips: ips, ports, ..Service::default() };
    Update::Service(ObjectName::new("default", "many"), Some(service))
}

/// The backends that are written, by the last byte of their address.
fn written(reconciler: &mut Reconciler<FailingTable<MemoryTable>>) -> Vec<u8> {
    let backends = reconciler.table.load().unwrap().backends;
    let last = |ip: std::net::IpAddr| ip.to_string().rsplit('.').next().map(str::to_owned);
    backends.iter().map(|(key, _)| last(key.address.ip()).unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn changes_are_written_while_larger_maps_are_made_and_their_programs_loaded() {
    let mut reconciler = reconciler();
    let mut dataplane = FakeDataplane { is_slow: true, ..FakeDataplane::default() };
    reconciler.ingest(Batch::of(vec![large()]));
    reconciler.begin();
    for last in 2..6 {
        assert_eq!(reconciler.grow(&mut dataplane), Progress::Thread, "the maps are being made");
        reconciler.ingest(Batch::of(vec![endpoint(last)]));
        reconciler.begin();
        assert_eq!(written(&mut reconciler), [last]);
    }
    dataplane.is_slow = false;
    while reconciler.grow(&mut dataplane) != Progress::None {
        dataplane.is_slow = !dataplane.is_slow;
    }
    assert_eq!((dataplane.made, dataplane.abandoned), (1, 0));
    assert_eq!(reconciler.state.lacking().count(), 0);
    assert_eq!(written(&mut reconciler), [5], "the new maps have the last change");
    assert_eq!(reconciler.table.load().unwrap().frontends.len(), 21);
}

#[tokio::test]
async fn maps_do_not_switch_between_a_batch_and_the_part_that_writes_it() {
    let mut reconciler = reconciler();
    let mut dataplane = FakeDataplane { is_slow: true, ..FakeDataplane::default() };
    reconciler.ingest(Batch::of(vec![large()]));
    reconciler.begin();
    assert_eq!(reconciler.grow(&mut dataplane), Progress::Thread);
    dataplane.is_slow = false;
    // It took long to take in, and its first part is another step.
    reconciler.ingest(Batch::of(vec![endpoint(2)]));
    assert_eq!(reconciler.grow(&mut dataplane), Progress::Part, "the new maps do not know of it");
    reconciler.go_on();
    assert_eq!(reconciler.grow(&mut dataplane), Progress::None);
    assert_eq!(written(&mut reconciler), [2]);
}

#[tokio::test]
async fn larger_maps_that_cannot_be_filled_are_abandoned_and_made_again_later() {
    let mut reconciler = reconciler();
    let mut dataplane = FakeDataplane { is_slow: true, ..FakeDataplane::default() };
    reconciler.ingest(Batch::of(vec![large()]));
    reconciler.begin();
    assert_eq!(reconciler.grow(&mut dataplane), Progress::Thread);
    // The thread ends without maps.
    (dataplane.is_slow, dataplane.begun) = (false, None);
    assert_eq!(reconciler.grow(&mut dataplane), Progress::None);
    assert_eq!((dataplane.made, dataplane.abandoned), (1, 1));
    reconciler.ingest(Batch::of(vec![endpoint(2)]));
    reconciler.begin();
    assert_eq!(written(&mut reconciler), [2]);
    assert_eq!(reconciler.grow(&mut dataplane), Progress::None, "not at once");
    assert!(reconciler.sizes.later().is_some());
}

/// A line that belongs to no Service, as another program may have written it.
fn spoil(reconciler: &mut Reconciler<FailingTable<MemoryTable>>) {
    let memory = &mut reconciler.table.inner;
    let held = memory.load().unwrap().lines.into_iter().find(|(_, line)| line.protocol != 0);
    let (number, line) = held.unwrap();
    memory.remove(&Key::Line(LineNumber(number))).unwrap();
    memory
        .put(&Row::Line(LineNumber(number), svclb_common::layout::Line { port: 9, ..line }))
        .unwrap();
    memory.put(&Row::Heir(LineNumber(number), ServiceId(9))).unwrap();
    memory.put(&Row::Owner(LineNumber(number), ServiceId(line.service))).unwrap();
}

#[tokio::test]
async fn an_audit_puts_the_row_right_by_which_others_read_the_maps() {
    let mut reconciler = reconciler();
    let row = *reconciler.state.meta();
    let other = Meta { seed: 8, slots: 4, ..row };
    reconciler.table.inner.put(&Row::Meta(other)).unwrap();
    reconciler.table.fail(0, 1);
    reconciler.audit();
    assert!(reconciler.unrepaired, "what fails is tried again");
    reconciler.audit();
    assert!(!reconciler.unrepaired);
    let found = reconciler.table.load().unwrap().meta;
    assert_eq!(Meta { failures: row.failures, ..found }, row);
}

#[tokio::test(start_paused = true)]
async fn an_audit_that_cannot_put_the_maps_right_is_tried_again_and_later_each_time() {
    let mut reconciler = reconciler();
    reconciler.audit();
    assert!(reconciler.retry.is_none() && !reconciler.unrepaired, "nothing to put right");
    spoil(&mut reconciler);
    let mut last = Duration::ZERO;
    for _ in 0..10 {
        reconciler.table.fail(0, usize::MAX);
        reconciler.audit();
        assert!(reconciler.unrepaired);
        let wait = reconciler.retry.as_ref().unwrap().at - tokio::time::Instant::now();
        assert!(wait > last || wait == Duration::from_secs(5), "{wait:?} after {last:?}");
        last = wait;
    }
    reconciler.table.fail(0, 0);
    reconciler.audit();
    assert!(reconciler.retry.is_none() && !reconciler.unrepaired);
    let dump = reconciler.table.load().unwrap();
    assert_eq!(reconciler.state.reload(&dump), [], "nothing is left to put right");
    let held: Vec<_> = dump.lines.iter().filter(|(_, line)| line.protocol != 0).collect();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].1.port, 80);
}

/// Lines and slots that a pass freed.
pub(super) fn freed() -> Freed {
    let mut reconciler = reconciler();
    spoil(&mut reconciler);
    reconciler.audit();
    reconciler.quarantine.waits.pop().expect("the line that was emptied rests")
}

#[tokio::test]
async fn an_audit_has_its_turn_while_something_rests() {
    let mut reconciler = reconciler();
    spoil(&mut reconciler);
    reconciler.audit();
    assert!(!reconciler.quarantine.waits.is_empty(), "the line that was emptied rests");
    spoil(&mut reconciler);
    reconciler.audit();
    let dump = reconciler.table.load().unwrap();
    let held = dump.lines.iter().filter(|(_, line)| line.protocol != 0);
    assert_eq!(held.map(|(_, line)| line.port).collect::<Vec<_>>(), [80]);
}

#[test]
fn the_delay_of_a_pass_is_that_of_its_oldest_change_since_the_start() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let rows: [(&str, &[i64], Option<u64>); 6] = [
        ("nothing", &[], None),
        ("one", &[95], Some(5)),
        ("the oldest", &[97, 91, 99], Some(9)),
        ("before the start", &[10], None),
        ("some before the start", &[10, 98], Some(2)),
        ("a clock that is ahead", &[105], Some(0)),
    ];
    for (row, times, expected) in rows {
        let times = times.iter().map(|seconds| seconds * 1_000_000_000).collect();
        let triggered = vec![(ObjectName::new("default", "hello"), times)];
        let pass = Pass { triggered, ..Pass::default() };
        let found = delays(&pass, at(90), at(100)).max();
        assert_eq!(found, expected.map(Duration::from_secs), "{row}");
    }
}
