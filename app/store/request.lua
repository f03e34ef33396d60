-- A token request, from the used assertion to the token, the lead or the flight to wait for (DESIGN, step 4).
-- Nearly every request ends with a live token, so it is first asked in short, with what that takes: KEYS 1 to 3 and
-- ARGV 2 to 5. The answer {'none'} says that nothing but the assertion was touched: ask again in full, with the same
-- REQUEST. Either may be sent again with the same REQUEST: it gets the same answer.
--
-- KEYS  1 device  2 used assertion  3 grant pointer  |  4 flight  5 device's index  6 device's new tokens
-- ARGV  2 REQUEST: random value of this request   3 epoch of the record the caller was verified under
--       4 used_until_ms: when the assertion could not be used anyway; 0: there is none (client_secret_basic)
--       5 fresh_ms: remaining life from which a token is handed out
--     | 6 spare_ms: the remaining life that is enough when no new one can be had   7 new handle   8 lease_ms;
--       0: do not lead   9 horizon_ms: longest an application may take   10 client ID   11 role   12 scope
--       13 most live tokens   14 most new tokens an hour
-- Returns  {'stale'} | {'used'} | {'expired'} | {'none'} |
--          {STATUS, now_ms, wait_ms, flight, handle, expires_at_ms, sealed}
--       'live': hand out `handle`   'lead': apply, as `flight`   'wait': for `flight`
--       'failed': a flight just did, and `flight` says why
--       'limited': this device has had its share   'busy': it would have to lead, and was told not to.
--       All but the first carry a token with spare_ms left, or ''.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[3] then
  return {'stale'}
end

local used = use(KEYS[2], ARGV[2], tonumber(ARGV[4]))
if used then
  return {used}
end

local handle, expires_at_ms, sealed = '', 0, ''
local pointed = redis.call('GET', KEYS[3])
if pointed then
  local record = standing(pointed, 'live', ARGV[3])
  if record then
    local remaining_ms = record[5] - now_ms
    if remaining_ms > tonumber(ARGV[5]) then
      return {'live', now_ms, 0, '', pointed, record[5], record[6]}
    elseif ARGV[6] and remaining_ms >= tonumber(ARGV[6]) then
      handle, expires_at_ms, sealed = pointed, record[5], record[6]
    end
  end
end

if not KEYS[4] then
  return {'none'}
end

local flight = redis.call('HMGET', KEYS[4], 'handle', 'epoch', 'request', 'failed')
if flight[4] then
  return {'failed', now_ms, redis.call('PTTL', KEYS[4]), flight[4], handle, expires_at_ms, sealed}
end
-- A flight with a tombstone, under a floor, or begun under another epoch brings nothing for us: lead in its place.
if flight[1] and flight[2] == ARGV[3] and standing(flight[1], 'applying', ARGV[3]) then
  local status = flight[3] == ARGV[2] and 'lead' or 'wait'
  return {status, now_ms, redis.call('PTTL', KEYS[4]), flight[1], handle, expires_at_ms, sealed}
end

if tonumber(ARGV[8]) == 0 then
  return {'busy', now_ms, 0, '', handle, expires_at_ms, sealed}
end

redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now_ms)
if redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[13]) then
  -- What a floor took, and its job has not come to yet, is not held against the device.
  revoke(redis.call('ZRANGE', KEYS[5], 0, -1), BULK, '', 'server', true)
end
if redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[13]) then
  local first = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')
  return {'limited', now_ms, first[2] - now_ms, '', handle, expires_at_ms, sealed}
end
if tonumber(redis.call('GET', KEYS[6]) or 0) >= tonumber(ARGV[14]) then
  return {'limited', now_ms, redis.call('PTTL', KEYS[6]), '', handle, expires_at_ms, sealed}
end
if redis.call('INCR', KEYS[6]) == 1 then
  redis.call('PEXPIRE', KEYS[6], HOUR_MS)
end

local record = shard .. 't:' .. ARGV[7]
redis.call('HSET', record, 'state', 'applying', 'request', ARGV[2], 'epoch', ARGV[3],
  'client_id', ARGV[10], 'role', ARGV[11], 'scope', ARGV[12], 'issued_at_ms', now_ms,
  'begun', redis.call('HGET', shard .. 'floors', '#') or 0)
redis.call('PEXPIRE', record, ARGV[9])
index(ARGV[7], ARGV[10], ARGV[11], now_ms + ARGV[9])
redis.call('DEL', KEYS[4])
redis.call('HSET', KEYS[4], 'handle', ARGV[7], 'epoch', ARGV[3], 'request', ARGV[2])
redis.call('PEXPIRE', KEYS[4], ARGV[8])
return {'lead', now_ms, 0, ARGV[7], handle, expires_at_ms, sealed}
