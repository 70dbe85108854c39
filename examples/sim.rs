use antiphon::simulate::{Options, run};
fn main() {
    let a: Vec<u64> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let mut s = antiphon::simulate::Report::default();
    let t = std::time::Instant::now();
    let mut bad = 0;
    for seed in a[0]..a[0] + a[1] {
        let r = run(seed, &Options::default());
        if let Some(f) = &r.failure {
            println!("seed {seed}: {f}");
            bad += 1;
            if bad > 3 {
                break;
            }
        }
        s.steps_total += r.steps_total;
        s.slices_total += r.slices_total;
        s.taken_total += r.taken_total;
        s.rejected_total += r.rejected_total;
        s.cancelled_total += r.cancelled_total;
        s.finished_total += r.finished_total;
        s.tokens_total += r.tokens_total;
        s.lost_total += r.lost_total;
        s.preemptions_total += r.preemptions_total;
        s.held_total += r.held_total;
    }
    println!("{:.1}s {s:?}", t.elapsed().as_secs_f64());
}
