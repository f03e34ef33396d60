-- Counts a failed authentication, or answers how long to wait: each counter holds at most its limit in any minute. What
-- is beyond a limit is not counted: it writes nothing, so a flood of failures costs Redis no writing to disk.
-- Not to be sent again: it would count twice.
--
-- `counters`: of the client ID and of the address, as far as they are known
-- `limits`: for each counter, how many failures it holds
-- Returns for each counter 0, or how many ms to wait.

local counters = {unpack(KEYS)}
local limits = {unpack(ARGV, 2)}

-- Returns for how many ms a counter is full. It is a list of the times of the last failures.
local function full_for_ms(counter, limit)
  local oldest_ms = redis.call('LINDEX', counter, -limit)
  if not oldest_ms then
    return 0
  end
  -- Not more than the whole time, even if the clock was set back since.
  return math.max(0, math.min(FAILURES_KEPT_MS, oldest_ms + FAILURES_KEPT_MS - now_ms))
end

local waits_ms, is_full = {}, false
for i, counter in ipairs(counters) do
  waits_ms[i] = full_for_ms(counter, limits[i])
  is_full = is_full or waits_ms[i] > 0
end
if not is_full then
  for i, counter in ipairs(counters) do
    redis.call('RPUSH', counter, now_ms)
    redis.call('LTRIM', counter, -limits[i], -1)
    redis.call('PEXPIRE', counter, FAILURES_KEPT_MS)
  end
end
return waits_ms
