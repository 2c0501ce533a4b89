//! Connection tracking that a plan asks for.

use e2e::{World, has_namespaces};

#[test]
fn a_case_that_asks_for_tracking_has_entries_and_the_next_one_has_none() {
    if !has_namespaces() {
        return;
    }
    if !std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists() {
        return e2e::skip("this kernel has no connection tracking");
    }
    let world = World::new();
    let plan = world.write(
        "plan.toml",
        "question = \"What does the table hold?\"\n[clients]\nsource_ports = \"20000-20199\"\n\
         [[case]]\nservers.conntrack = true\n[[case]]\nclients.conntrack = true\n[[case]]\n\
         [[expect]]\nestablished = \"predicted\"\n[[expect]]\nbound_by = \"four_tuples\"",
    );
    let report = world.run(["run", plan.as_str(), "--json"]).exits(0).report();
    for (case, server, client) in [(0, 200, 0), (1, 0, 200), (2, 0, 0)] {
        let counters = &report.cases[case].counters;
        let entries = |host: &str| counters[host].get("conntrack.count").copied().unwrap_or(0);
        // One more is the agent's connection to the controller.
        for (host, flows) in [("server-1", server), ("client-1", client)] {
            assert!((flows..=flows + 1).contains(&entries(host)), "case {case}, {host}: {counters:?}");
        }
    }
}
