"""An OTLP receiver on the official protobuf package.

python3 otlp.py PORT FOLDER

Requests are decoded when they come, so that what is malformed is refused, and written down as they are;
pipelines.py reads them afterwards."""

import gzip
import http.server
import sys
import threading

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

KINDS = {"/v1/logs": ExportLogsServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}
LOCK = threading.Lock()


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        try:
            KINDS[self.path].FromString(body)
        except Exception as why:
            self.send_error(400, str(why))
            return
        with LOCK, open(f"{sys.argv[2]}/{self.path[1:].replace('/', '-')}", "ab") as file:
            file.write(len(body).to_bytes(4, "big") + body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
