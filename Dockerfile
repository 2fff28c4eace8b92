# The Agent with this check in place of the one that it ships. Run `make build` first.
FROM datadog/agent:7
COPY dist/datadog_prefect-3.0.0-py3-none-any.whl /tmp/
RUN agent integration install -r -w /tmp/datadog_prefect-3.0.0-py3-none-any.whl && rm /tmp/datadog_prefect-*.whl
