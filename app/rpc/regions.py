"""The regions of guide chapter 2."""

from __future__ import annotations

from typing import Final

DOMAIN: Final = "aliyuncs.com"

REGIONS: Final = frozenset(
    {
        "mq-internet-access",
        "cn-chengdu",
        "cn-hangzhou",
        "cn-shanghai",
        "cn-qingdao",
        "cn-beijing",
        "cn-zhangjiakou",
        "cn-huhehaote",
        "cn-shenzhen",
        "cn-hongkong",
        "ap-south-1",
        "ap-southeast-1",
        "ap-southeast-2",
        "ap-southeast-3",
        "ap-southeast-5",
        "ap-northeast-1",
        "eu-central-1",
        "us-west-1",
        "us-east-1",
        "cn-hangzhou-finance",
        "cn-shenzhen-finance-1",
        "cn-shanghai-finance-1",
        "cn-north-2-gov-1",
    }
)


def endpoint(region: str) -> str:
    """Return the API's host name in ``region``.

    Raises ``KeyError`` for a region that chapter 2 does not list; for a newer one set ``CLOUD_ENDPOINT``.
    """
    if region not in REGIONS:
        raise KeyError(region)
    return f"onsmqtt.{region}.{DOMAIN}"
