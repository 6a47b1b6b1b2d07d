//! The Redis Cluster by the library's interface.

use servers::{RedisCluster, ServerError};

use crate::processes::alive;
use crate::redis::{answer, process, run, text, write_twice};

#[test]
fn three_masters_serve_all_keys() {
    let mut cluster = RedisCluster::builder().start().expect("the cluster starts");
    let urls = cluster.urls();
    assert_eq!(urls.len(), 3);
    for (index, url) in urls.iter().enumerate() {
        assert_eq!(*url, cluster.node(index).url());
        assert!(answer(url, &["CLUSTER", "INFO"]).contains("cluster_slots_ok:16384"));
    }
    // Slots 866, 6918 and 12182.
    for (index, key) in ["hello", "test", "foo"].into_iter().enumerate() {
        assert_eq!(answer(&urls[index], &["SET", key, "value"]), "OK");
        let moved = run(&urls[(index + 1) % 3], &["GET", key]);
        let address = cluster.node(index).address().to_string();
        assert!(text(&moved).starts_with("MOVED"), "{moved:?}");
        assert!(text(&moved).ends_with(&address), "{moved:?}");
    }

    let running = [process(&cluster.urls()[1])];
    cluster.kill(1).expect("it can be killed");
    assert_eq!(alive(&running), [] as [&str; 0]);
    cluster.restart(1).expect("it starts again");
    cluster.wait_ready().expect("it joins the others again");
    assert_eq!(cluster.urls(), urls);
    assert_eq!(answer(&urls[1], &["SET", "test", "value"]), "OK");
}

#[test]
fn replicas_take_over_from_masters_and_back() {
    let mut cluster = RedisCluster::builder().with_replicas().start().expect("the cluster starts");
    let urls = cluster.urls();
    assert_eq!(urls.len(), 6);
    for (value, (failed, successor)) in ["1", "2"].into_iter().zip([(1, 4), (4, 1)]) {
        write_twice(&urls[failed], "test", value);
        cluster.kill(failed).expect("it can be killed");
        assert_eq!(cluster.wait_failover(failed).expect("its replica takes over"), successor);
        assert_eq!(answer(&urls[successor], &["GET", "test"]), value);
        cluster.restart(failed).expect("it starts again");
        cluster.wait_ready().expect("it joins the others again");
        assert!(answer(&urls[failed], &["ROLE"]).starts_with("slave"));
    }
}

#[test]
fn nothing_is_left_of_a_dropped_cluster() {
    let cluster = RedisCluster::builder().start().expect("the cluster starts");
    let nodes: Vec<_> = (0..3).map(|index| cluster.node(index)).collect();
    let running: Vec<_> = nodes.iter().map(|node| process(&node.url())).collect();
    let directories: Vec<_> = nodes.iter().map(|node| node.directory().to_path_buf()).collect();
    drop(cluster);
    assert_eq!(alive(&running), [] as [&str; 0]);
    assert!(directories.iter().all(|directory| !directory.exists()));
}

#[test]
fn a_wrong_setting_is_an_error_with_the_log() {
    let error = RedisCluster::builder().with_setting("no-such-setting", "1").start();
    assert!(matches!(error, Err(ServerError::Ended { program: "redis-server", .. })), "{error:?}");
}
