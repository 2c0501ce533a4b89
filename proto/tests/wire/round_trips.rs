//! domain -> message -> bytes -> message -> domain.

use crate::given;
use proptest::prelude::*;
use prost::Message;
use std::fmt::Debug;
use tuplelab_proto::v1;

fn through_the_wire<D, M>(value: &D) -> D
where
    M: for<'a> From<&'a D> + Message + Default,
    D: TryFrom<M, Error: Debug>,
{
    let bytes = M::from(value).encode_to_vec();
    let message = M::decode(bytes.as_slice()).expect("what was encoded decodes");
    D::try_from(message).expect("what was meant has a meaning")
}

macro_rules! comes_out_as_it_went_in {
    ($($name:ident: $given:ident as $message:ident,)*) => {
        proptest! {
            $(#[test]
            fn $name(value in given::$given()) {
                prop_assert_eq!(through_the_wire::<_, v1::$message>(&value), value);
            })*
        }
    };
}

comes_out_as_it_went_in! {
    host_facts_come_out_as_they_went_in: facts as HostFacts,
    limits_on_descriptors_come_out_as_they_went_in: open_files as OpenFiles,
    a_bound_socket_comes_out_as_it_went_in: bound_socket as BoundSocket,
    conntrack_comes_out_as_it_went_in: conntrack as Conntrack,
    an_assignment_comes_out_as_it_went_in: assignment as Assignment,
    a_census_filter_comes_out_as_it_went_in: census_filter as CensusFilter,
    a_servers_work_comes_out_as_it_went_in: serve as Serve,
    a_clients_work_comes_out_as_it_went_in: connect as Connect,
    a_block_of_flows_comes_out_as_it_went_in: flow_block as FlowBlock,
    counters_come_out_as_they_went_in: counters as Counters,
    a_sample_comes_out_as_it_went_in: sample as Sample,
    the_connects_beyond_come_out_as_they_went_in: beyond as Beyond,
    connect_times_come_out_as_they_went_in: connect_times as ConnectTimes,
    a_plateau_comes_out_as_it_went_in: plateau as Plateau,
    a_listeners_queue_comes_out_as_it_went_in: listener_queue as ListenerQueue,
    a_census_comes_out_as_it_went_in: census as Census,
    readings_come_out_as_they_went_in: readings as Readings,
    an_answer_comes_out_as_it_went_in: answer as Answer,
}
