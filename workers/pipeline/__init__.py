"""The pipeline turns image events from Kafka into published outcomes.

An *event* names one image. A Kafka record contains one or more events; an *index* counts them from 0. A *task* carries
one event through the stages. An *outcome* is the result of one event: an enriched image, a retraction, a skip or a dead
letter. An *entry* is a record in the ledger, with the outcomes of its events. An *assignment* is the time in which this
worker holds one partition. ARCHITECTURE.md describes the life of one image.

The package imports no client library and no torch. `workers.assembly` builds its `Worker`.
"""
