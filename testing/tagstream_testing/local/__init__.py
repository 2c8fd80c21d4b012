"""Real servers on this machine, from wheels, and the demo on them.

Apache Kafka, SeaweedFS (S3) and Valkey start on free loopback ports, keep everything in one temporary folder, and
never outlive the process that started them.
"""
