-- A token request, from the used assertion to the token, the lead or the flight to wait for (DESIGN, step 4).
-- Nearly every request ends with a live token, so it is first asked in short, with what that takes: KEYS 1 to 3 and
-- ARGV 2 to 6. The answer {'none'} says that nothing but the assertion was touched: ask again in full, with the same
-- REQUEST. Either may be sent again with the same REQUEST: it gets the same answer.
--
-- KEYS  1 device  2 used assertion  3 grant pointer  |  4 flight  5 device's index  6 device's new tokens
-- ARGV  2 REQUEST: random value of this request   3 epoch of the record the caller was verified under
--       4 used_until_ms: when the assertion could not be used anyway; 0: there is none (client_secret_basic)
--       5 fresh_ms: remaining life from which a token is handed out   6 token record prefix
--     | 7 spare_ms: the remaining life that is enough when no new one can be had   8 new handle   9 lease_ms; 0: do not lead
--       10 horizon_ms: longest an application may take   11 client ID   12 role   13 scope
--       14 most live tokens   15 most new tokens an hour
-- Returns  {'stale'} | {'used'} | {'expired'} | {'none'} |
--          {STATUS, now_ms, wait_ms, flight, handle, expires_at_ms, sealed}
--       'live': hand out `handle`   'lead': apply, as `flight`   'wait': for `flight`
--       'failed': a flight just did, and `flight` says why
--       'limited': this device has had its share   'busy': it would have to lead. All but the first carry a token with spare_ms left, or ''.

local HOUR_MS = 3600 * 1000

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
  local record = redis.call('HMGET', ARGV[6] .. pointed, 'state', 'epoch', 'expires_at_ms', 'sealed')
  local remaining_ms = tonumber(record[3] or 0) - now_ms
  if record[1] == 'live' and record[2] == ARGV[3] then
    if remaining_ms > tonumber(ARGV[5]) then
      return {'live', now_ms, 0, '', pointed, record[3], record[4]}
    elseif ARGV[7] and remaining_ms >= tonumber(ARGV[7]) then
      handle, expires_at_ms, sealed = pointed, record[3], record[4]
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
-- A flight with a tombstone, or begun under another epoch, brings nothing for us: lead in its place.
if flight[1] and flight[2] == ARGV[3] and redis.call('HGET', ARGV[6] .. flight[1], 'state') == 'applying' then
  local status = flight[3] == ARGV[2] and 'lead' or 'wait'
  return {status, now_ms, redis.call('PTTL', KEYS[4]), flight[1], handle, expires_at_ms, sealed}
end

if tonumber(ARGV[9]) == 0 then
  return {'busy', now_ms, 0, '', handle, expires_at_ms, sealed}
end

redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now_ms)
if redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[14]) then
  local first = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')
  return {'limited', now_ms, first[2] - now_ms, '', handle, expires_at_ms, sealed}
end
if tonumber(redis.call('GET', KEYS[6]) or 0) >= tonumber(ARGV[15]) then
  return {'limited', now_ms, redis.call('PTTL', KEYS[6]), '', handle, expires_at_ms, sealed}
end
if redis.call('INCR', KEYS[6]) == 1 then
  redis.call('PEXPIRE', KEYS[6], HOUR_MS)
end

local record = ARGV[6] .. ARGV[8]
local horizon_ms = tonumber(ARGV[10])
redis.call('HSET', record, 'state', 'applying', 'request', ARGV[2], 'epoch', ARGV[3],
  'client_id', ARGV[11], 'role', ARGV[12], 'scope', ARGV[13], 'issued_at_ms', now_ms)
redis.call('PEXPIRE', record, horizon_ms)
redis.call('ZADD', KEYS[5], now_ms + horizon_ms, ARGV[8])
if redis.call('PTTL', KEYS[5]) < horizon_ms then
  redis.call('PEXPIRE', KEYS[5], horizon_ms)
end
redis.call('DEL', KEYS[4])
redis.call('HSET', KEYS[4], 'handle', ARGV[8], 'epoch', ARGV[3], 'request', ARGV[2])
redis.call('PEXPIRE', KEYS[4], ARGV[9])
return {'lead', now_ms, 0, ARGV[8], handle, expires_at_ms, sealed}
