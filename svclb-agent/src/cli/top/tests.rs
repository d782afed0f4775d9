//! Counts, order and filter of the rows.

use super::*;

fn view(name: &str, new_per_second: f64, sockets: usize) -> TopView {
    TopView {
        namespace: "shop".into(),
        name: name.into(),
        port_name: "http".into(),
        protocol: "TCP".into(),
        new_per_second,
        sockets,
        backends: 2,
    }
}

fn sample(at: Instant, sockets: &[(u64, u32)]) -> Sample {
    Sample {
        at,
        sockets: sockets
            .iter()
            .map(|(cookie, service)| (SocketCookie(*cookie), *service))
            .collect(),
        services: [(1, view("web", 0.0, 0)), (2, view("db", 0.0, 0))].into(),
    }
}

#[test]
fn a_socket_is_new_to_a_service_that_it_had_not_dialled_an_interval_ago() {
    let start = Instant::now();
    let before = sample(start, &[(1, 1), (2, 1), (3, 2), (4, 2)]);
    // Socket 2 is closed, 3 has dialled the other service too, 5 to 7 are new, and 8 dialled one that is gone.
    let now = [(1, 1), (3, 2), (3, 1), (4, 2), (5, 1), (6, 1), (7, 2), (8, 9)];
    let now = sample(start + Duration::from_secs(2), &now);
    let mut rows = now.rows(Some(&before));
    arrange(&mut rows, Sort::New, "");
    assert_eq!(rows, [view("web", 1.5, 4), view("db", 0.5, 3)]);
    let mut first = before.rows(None);
    arrange(&mut first, Sort::Name, "");
    assert_eq!(first, [view("db", 0.0, 2), view("web", 0.0, 2)], "nothing is known of rates");
}

#[test]
fn rates_have_one_decimal_and_no_time_has_none() {
    let rows = [
        (0, 2_000, 0.0),
        (1, 3_000, 0.3),
        (2, 3_000, 0.7),
        (100_000, 1_500, 66_666.7),
        (5, 0, 0.0),
    ];
    for (count, milliseconds, expected) in rows {
        let found = rate(count, Duration::from_millis(milliseconds));
        assert_eq!(format!("{found}"), format!("{expected}"), "{count} in {milliseconds} ms");
    }
}

#[test]
fn rows_are_in_the_order_that_is_wanted_and_have_what_the_filter_names() {
    let all = || vec![view("b", 1.0, 5), view("c", 0.0, 9), view("a", 1.0, 5), view("d", 1.0, 7)];
    let rows = [
        ("new", Sort::New, "", "d a b c"),
        ("sockets", Sort::Sockets, "", "c d a b"),
        ("name", Sort::Name, "", "a b c d"),
        ("a name", Sort::Name, "shop/b", "b"),
        ("a port", Sort::Name, ":http/TCP", "a b c d"),
        ("nothing", Sort::Name, "UDP", ""),
    ];
    for (name, sort, filter, expected) in rows {
        let mut found = all();
        arrange(&mut found, sort, filter);
        let names: Vec<&str> = found.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.join(" "), expected, "{name}");
    }
}
