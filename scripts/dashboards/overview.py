"""The daily dashboard: progress, rate, bottleneck, faults and cost."""

from __future__ import annotations

from scripts.dashboards.grafana import Choice, Dashboard, Row, graph, number, shares, stacked

IMAGES = 'sum(rate(tagstream_outcomes_total{kind=~"enriched|partial",WORKERS}[$__rate_interval]))'
COST = f"count(count by (instance) (tagstream_ready{{WORKERS}})) * $price / 3.6 / {IMAGES}"
"""Of a thousand images: all workers' price a second, over the images a second, by a thousand."""


def quantile(share: float, metric: str, by: str = "") -> str:
    """Below which this share of a histogram's values is."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{WORKERS}}[$__rate_interval])))"


def mean(metric: str, by: str = "") -> str:
    """Of a histogram's values."""
    of = f"sum by ({by}) " if by else "sum"
    return (
        f"{of}(rate({metric}_sum{{WORKERS}}[$__rate_interval]))"
        f" / {of}(rate({metric}_count{{WORKERS}}[$__rate_interval]))"
    )


def rates(metric: str, *by: str, matching: str = "") -> str:
    """A counter's rates by these labels."""
    return f"sum by ({', '.join(by)}) (rate({metric}{{{matching}WORKERS}}[$__rate_interval]))"


def share_of(metric: str, by: str) -> str:
    """The share of each of a label's values in a counter's rate."""
    return f"{rates(metric, by)} / ignoring({by}) group_left sum(rate({metric}{{WORKERS}}[$__rate_interval]))"


HITS = rates("tagstream_cache_lookups_total", "level", matching='answer="hit",')

NOW = Row(
    "Now",
    [
        number("Images", "Images enriched, also partly, and committed.", "images/s", IMAGES, decimals=1),
        number("Ready workers", "Warmed up and joined to the group.", "short", "sum(tagstream_ready{WORKERS})"),
        number(
            "Lag",
            "Live records that are not committed, in the partitions that workers have.",
            "short",
            'sum(tagstream_lag_records{lane!="background",WORKERS})',
        ),
        number(
            "Oldest record",
            "Since the oldest live record that is not committed was appended (LogAppendTime), or else was read.",
            "s",
            'max(tagstream_lag_seconds{lane!="background",WORKERS})',
        ),
        number(
            "Dead letters in an hour",
            "What could not be handled in the last hour: tagstream dead-letters list says what, and why.",
            "short",
            'sum(increase(tagstream_outcomes_total{kind="dead-letter",WORKERS}[1h]))',
            decimals=0,
        ),
        number(
            "Cost of a thousand images",
            "At the price of a worker-hour that is set above, in its currency; idle workers cost too.",
            "none",
            COST,
            decimals=3,
        ),
    ],
)

WORK = Row(
    "Work",
    [
        stacked(
            "Outcomes",
            "By kind, once they are committed.",
            "outcomes/s",
            (rates("tagstream_outcomes_total", "kind"), "{{kind}}"),
        ),
        shares(
            "What bounds the work",
            "What most images waited for, by looks of one a second: docs/reference/metrics.md says what helps. "
            "`input`: there was nothing to do.",
            (share_of("tagstream_bound_looks_total", "by"), "{{by}}"),
        ),
        stacked(
            "Images in flight",
            "Where images are: the stage before which they pile up is too slow for those before it.",
            "short",
            ("sum by (stage) (tagstream_images_in_flight{WORKERS})", "{{stage}}"),
        ),
        graph(
            "Records read and messages sent",
            "More read than sent for long: work piles up, or much of it is skipped.",
            "records/s",
            (
                rates("messaging_client_consumed_messages_total", "messaging_destination_name"),
                "read {{messaging_destination_name}}",
            ),
            (
                rates("messaging_client_sent_messages_total", "messaging_destination_name"),
                "sent {{messaging_destination_name}}",
            ),
        ),
        graph(
            "Images of each worker",
            "They should be alike; one that lags behind has slower hardware or busier partitions.",
            "images/s",
            (
                rates("tagstream_outcomes_total", "instance, worker", matching='kind=~"enriched|partial",'),
                "{{instance}} {{worker}}",
            ),
        ),
        graph(
            "Cost over time",
            "Of a thousand images, at the price of a worker-hour that is set above.",
            "none",
            (COST, "cost"),
        ),
    ],
)

LATENCY = Row(
    "Latency",
    [
        graph(
            "From record to commit",
            "From taking a record to its commit, by lane; records wait for those before them in their partition.",
            "s",
            *(
                (quantile(share, "messaging_process_duration_seconds", "lane"), f"{{{{lane}}}} {share:.0%}")
                for share in (0.5, 0.95, 0.99)
            ),
        ),
        stacked(
            "Mean time of an image, by stage",
            "Waits are stages too; of at most 20 images a second and worker. `annotate` is the time of a batch.",
            "s",
            (mean("tagstream_stage_seconds", "stage"), "{{stage}}"),
        ),
        graph(
            "Slow images, by stage (95 %)",
            "The time that 95 of 100 images stay below.",
            "s",
            (quantile(0.95, "tagstream_stage_seconds", "stage"), "{{stage}}"),
        ),
    ],
)

LAG = Row(
    "Lag",
    [
        graph(
            "Records not committed",
            "By lane and topic, of the partitions that workers have; what no worker has shows in Kafka's own lag.",
            "short",
            ("sum by (lane, topic) (tagstream_lag_records{WORKERS})", "{{lane}} {{topic}}"),
        ),
        graph(
            "Oldest record not committed",
            "By lane and topic. It grows as fast as time passes: nothing is committed.",
            "s",
            ("max by (lane, topic) (tagstream_lag_seconds{WORKERS})", "{{lane}} {{topic}}"),
            ("max by (topic) (tagstream_held_up_seconds{WORKERS})", "{{topic}}, held up by an open transaction"),
        ),
        graph(
            "Partitions furthest behind",
            "One alone that lags: its records wait for one that is not done, or its keys are far too many.",
            "short",
            ("topk(5, sum by (topic, partition) (tagstream_lag_records{WORKERS}))", "{{topic}}:{{partition}}"),
        ),
        stacked(
            "Partitions by state",
            "`opening` for long: a dead worker's transaction is not ended yet. `paused`: its records wait for memory "
            "or live ones.",
            "short",
            ("sum by (state) (tagstream_partitions{WORKERS})", "{{state}}"),
        ),
        graph(
            "Records in hand",
            "They wait for those before them, or for their commit.",
            "short",
            ("sum by (instance, worker) (tagstream_ledger_records{WORKERS})", "{{instance}} {{worker}}"),
        ),
    ],
)

TRANSACTIONS = Row(
    "Transactions",
    [
        graph(
            "Transactions",
            "Published and committed.",
            "transactions/s",
            ("sum(rate(tagstream_transactions_published_total{WORKERS}[$__rate_interval]))", "committed"),
        ),
        graph(
            "Time of a transaction",
            "From its begin to its commit: it grows with a slow broker.",
            "s",
            *(
                (quantile(share, "messaging_client_operation_duration_seconds"), f"{share:.0%}")
                for share in (0.5, 0.95)
            ),
        ),
        graph(
            "Transactions that failed",
            "By cause. They are published again; docs/reference/faults.md has each cause.",
            "transactions/s",
            (rates("tagstream_transactions_failed_total", "cause"), "{{cause}}"),
            ("sum(rate(tagstream_publisher_recoveries_total{WORKERS}[$__rate_interval]))", "producer rebuilt"),
            needs="a transaction has failed",
        ),
    ],
)

BATCHES = Row(
    "Batches on the device",
    [
        graph(
            "Images in a batch",
            "A busy device with small batches gets them too late; `safe` is what its memory is known to hold.",
            "short",
            (mean("tagstream_batch_images"), "mean"),
            (quantile(0.95, "tagstream_batch_images"), "95%"),
            ("min(tagstream_safe_batch{WORKERS})", "safe"),
        ),
        shares(
            "Why batches left",
            "`full`: the device bounds the work. `ready`: it was free and took all there was. `alone`: an image that "
            "made the model fail runs by itself.",
            (share_of("tagstream_batches_total", "left"), "{{left}}"),
        ),
        graph(
            "Time on the device",
            "Share of time that a batch runs, by worker; near 1 the model bounds the work.",
            "percentunit",
            (
                rates("tagstream_stage_seconds_sum", "instance, worker", matching='stage="annotate",'),
                "{{instance}} {{worker}}",
            ),
        ),
        graph(
            "Batches that failed",
            "By cause: out of memory, or an error of the model. They are halved until the failing image is alone.",
            "batches/s",
            (rates("tagstream_batch_failures_total", "cause"), "{{cause}}"),
            needs="a batch has failed",
        ),
    ],
)

CACHE = Row(
    "Cache",
    [
        graph(
            "Look-ups that hit",
            "By level. A hit at the source saves the download and the model; one of a result saves the model.",
            "percentunit",
            (
                f"{HITS} / {rates('tagstream_cache_lookups_total', 'level')}",
                "{{level}}",
            ),
        ),
        stacked(
            "Look-ups",
            "By level and answer.",
            "look-ups/s",
            (rates("tagstream_cache_lookups_total", "level", "answer"), "{{level}} {{answer}}"),
        ),
        graph(
            "Equal images in flight",
            "Images that took the answer of an equal one that was being worked on.",
            "images/s",
            ("sum(rate(tagstream_coalesced_total{WORKERS}[$__rate_interval]))", "shared"),
            needs="two equal images were in flight at once",
        ),
        graph(
            "Renditions",
            "By answer. `read`: in the place of its original; any other says why the original was read.",
            "images/s",
            (rates("tagstream_renditions_total", "answer"), "{{answer}}"),
            needs="an image above 64 kB was read with TAGSTREAM_RENDITION",
        ),
        graph(
            "Cache errors",
            "By cause; each is a miss, and costs time alone.",
            "errors/s",
            (rates("tagstream_cache_errors_total", "cause"), "{{cause}}"),
            needs="a call of the cache has failed",
        ),
    ],
)

FAULTS = Row(
    "What went wrong",
    [
        graph(
            "Dead letters",
            "By stage and reason: docs/reference/dead-letters.md says what each means and when to replay.",
            "dead letters/s",
            (rates("tagstream_dead_letters_total", "stage", "reason") + " > 0", "{{stage}} {{reason}}"),
            needs="something was dead-lettered",
        ),
        graph(
            "Skips",
            "By reason; a skip is no fault.",
            "skips/s",
            (rates("tagstream_skips_total", "reason") + " > 0", "{{reason}}"),
            needs="an event was skipped",
        ),
        graph(
            "Calls tried again",
            "By dependency.",
            "calls/s",
            (rates("tagstream_retries_total", "dependency"), "{{dependency}}"),
            needs="a call of a dependency has failed",
        ),
        graph(
            "Breakers",
            "By dependency and state. Open: the dependency is not called until a probe succeeds, and images wait.",
            "short",
            ("sum by (dependency, state) (tagstream_breakers{WORKERS})", "{{dependency}} {{state}}"),
        ),
        graph(
            "Decoders lost",
            "Decoding processes that had to be replaced, by cause: an image that is hostile or too large.",
            "processes/s",
            (rates("tagstream_decoders_lost_total", "cause"), "{{cause}}"),
            needs="a decoding process was killed or has died",
        ),
        graph(
            "Jobs dropped",
            "Because their partition was revoked; its new owner does the work.",
            "jobs/s",
            ("sum(rate(tagstream_dropped_jobs_total{WORKERS}[$__rate_interval]))", "dropped"),
            needs="a partition was revoked with work in hand",
        ),
        graph(
            "Lines on standard error",
            "What libraries wrote, by process: it is in the log.",
            "lines/s",
            (rates("tagstream_stderr_lines_total", "of"), "{{of}}"),
            needs="a library has written to standard error",
        ),
    ],
)

INDEX = Row(
    "Index",
    [
        graph(
            "Records indexed",
            "Of the enriched topic, by kind: outcomes, tombstones, and unreadable ones, which the log names.",
            "records/s",
            (rates("tagstream_index_records_total", "kind"), "{{kind}}"),
            needs="`tagstream index run` has read a record",
        ),
        graph(
            "Outcomes not indexed",
            "Offsets that wait. While PostgreSQL is away only read ones count: its tries are under Calls tried again.",
            "short",
            ("sum by (topic) (tagstream_index_lag{WORKERS})", "{{topic}}"),
            needs="`tagstream index run` has a partition",
        ),
        graph(
            "Outcomes indexed in part",
            "Characters were replaced, or the embedding was left out.",
            "outcomes/s",
            (rates("tagstream_index_flaws_total", "kind"), "{{kind}}"),
            needs="an outcome had such a flaw",
        ),
    ],
)

MACHINE = Row(
    "Processes",
    [
        graph(
            "Processors in use",
            "By the worker's own process; its decoders are further ones.",
            "short",
            ("rate(process_cpu_seconds_total{WORKERS}[$__rate_interval])", "{{instance}} {{worker}}"),
        ),
        graph(
            "Memory",
            "Resident, of the worker's own process. It is bounded by the budgets, the models and the program.",
            "bytes",
            ("process_resident_memory_bytes{WORKERS}", "{{instance}} {{worker}}"),
        ),
        graph(
            "Processes that answer",
            "Of each worker with `TAGSTREAM_WORKERS`. 0: it hangs, or starts again.",
            "short",
            ("tagstream_worker_answers{WORKERS}", "{{instance}} {{worker}}"),
            needs="a worker has several processes",
        ),
        graph(
            "Budgets in use",
            "The fullest worker's share; at 1 images wait for memory. Peak: the most that it ever was.",
            "percentunit",
            ("max by (budget) (tagstream_budget_bytes{WORKERS} / tagstream_budget_limit_bytes{WORKERS})", "{{budget}}"),
            (
                "max by (budget) (tagstream_budget_peak_bytes{WORKERS} / tagstream_budget_limit_bytes{WORKERS})",
                "{{budget}} peak",
            ),
        ),
    ],
)

CAPTIONS = Row(
    "Captions of a service",
    [
        graph(
            "Requests for captions",
            "By result. Unavailable: the service was away; misplaced: a wrong key, model or path, or no money.",
            "reqps",
            (rates("tagstream_caption_requests_total", "result"), "{{result}}"),
            needs="TAGSTREAM_CAPTIONER is an address",
        ),
        graph(
            "Seconds of a caption",
            "One request with its answer.",
            "s",
            (quantile(0.5, "tagstream_caption_seconds"), "median"),
            (quantile(0.95, "tagstream_caption_seconds"), "95 %"),
            needs="TAGSTREAM_CAPTIONER is an address",
        ),
        graph(
            "Tokens",
            "As the service counts them; reserved: it did not say.",
            "short",
            (rates("tagstream_caption_tokens_total", "kind"), "{{kind}}/s"),
            needs="TAGSTREAM_CAPTIONER is an address",
        ),
        graph(
            "Images without their caption",
            "By reason. `tagstream retag plan --reason` completes them.",
            "images/s",
            (rates("tagstream_captions_missing_total", "reason"), "{{reason}}"),
            needs="TAGSTREAM_CAPTIONER is an address",
        ),
    ],
)

OVERVIEW = Dashboard(
    "tagstream-overview",
    "tagstream: overview",
    "Whether the work is done, how fast, what bounds it, what goes wrong and what it costs.",
    [NOW, WORK, LATENCY, LAG, TRANSACTIONS, BATCHES, CACHE, CAPTIONS, FAULTS, INDEX, MACHINE],
    [Choice("price", "Price of a worker-hour", ["1"])],
)
