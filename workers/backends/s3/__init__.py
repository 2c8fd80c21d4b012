"""S3 object stores by minio's client: AWS, MinIO, SeaweedFS and others. `store` is the port."""
