-- For wrk: uploads the clips that are listed in $CLIPS, in turn, and prints what was measured.

local bodies = {}
for line in io.lines(os.getenv("CLIPS")) do
  local file = io.open(line, "rb")
  bodies[#bodies + 1] = '--b\r\nContent-Disposition: form-data; name="video"; filename="a.avi"' ..
    "\r\n\r\n" .. file:read("*a") .. "\r\n--b--\r\n"
  file:close()
end
local headers = {["Content-Type"] = "multipart/form-data; boundary=b"}
local number = 0

request = function()
  number = number % #bodies + 1
  return wrk.format("POST", "/v1/predict", headers, bodies[number])
end

done = function(summary, latency, requests)
  local errors = summary.errors
  print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
