# SMG, the gateway of docs/scale-out.md.
FROM python:3.12-slim
RUN pip install --no-cache-dir smg==1.13.0
USER 65532:65532
EXPOSE 8000
ENTRYPOINT ["smg", "launch", "--host", "0.0.0.0", "--port", "8000"]
